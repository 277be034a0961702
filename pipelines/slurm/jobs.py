"""A run's Slurm jobs on disk: their files, the job of each stage, and the history of each job."""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.slurm.queue import Queued
from deploy.slurm.script import job_name
from deploy.slurm.site import JOB_STAGES, JobStage, Site, validate
from jobs.checkpoint_names import step_of
from jobs.errors import IdxtrainError, InputError
from jobs.files import read_object, write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from jobs.words import counted
from pipelines import runs

# submitted: all jobs of the run. started, ended: the process of one job. again: one job was requeued or resubmitted.
Event = Literal["submitted", "started", "ended", "again"]
STAGES_OF: Mapping[JobStage, tuple[str, ...]] = {
    "prepare": ("fetch", "prepare"),
    "train": ("train",),
    "evaluate": ("evaluate",),
}
_TAIL_BYTES = 64 << 10  # of a log, searched for the last error
_ERROR = re.compile(r"(?:\[rank \d+\] )?idxtrain: (.*)")
_MOST_SAID = 300  # characters of it
_SUBMIT = "submit the run with `idxtrain submit`"


@dataclass(frozen=True)
class SlurmJobs:
    """The files under `RUN/slurm`: scripts, logs, the site, the job IDs, and the history of the jobs."""

    run: RunDir

    @property
    def folder(self) -> Path:
        """The folder of all these files."""
        return self.run.slurm

    @property
    def site_file(self) -> Path:
        """The site, as it was when the jobs were submitted."""
        return self.folder / "site.json"

    @property
    def jobs_file(self) -> Path:
        """The ID of each stage's job."""
        return self.folder / "jobs.json"

    @property
    def history_file(self) -> Path:
        """One JSON line per event: see `Event`."""
        return self.folder / "history.jsonl"

    def script_file(self, stage: JobStage) -> Path:
        """Return the path of a stage's batch script."""
        return self.folder / f"{stage}.sh"

    def log_file(self, stage: str, job: str) -> Path:
        """Return the path of the log that Slurm writes for a job."""
        return self.folder / f"{stage}-{job}.out"

    def scripts(self) -> list[Path]:
        """Return the batch scripts, by which the run's jobs are known in the queue."""
        return [self.script_file(stage) for stage in JOB_STAGES]

    def sweep_scripts(self) -> list[Path]:
        """Return the batch scripts of the sweep that has this run among its points, if one has."""
        name = self.run.sweep
        return [self.run.work.sweeps / name / f"{stage}.sh" for stage in JOB_STAGES] if name else []

    def own(self, queued: Iterable[Queued]) -> list[Queued]:
        """Return those jobs that are this run's: with its script, or a number of its own and its sweep's script."""
        scripts, of_sweep = set(map(str, self.scripts())), set(map(str, self.sweep_scripts()))
        numbers = set(self.jobs().values())
        return [job for job in queued if job.script in scripts or (job.script in of_sweep and job.job in numbers)]

    def names(self, stage: str) -> list[str]:
        """Return the names that a stage's job may have in the queue: the run's, and its sweep's."""
        return [job_name(name, stage) for name in (self.run.run_id, self.run.sweep) if name]

    @property
    def how_to_submit(self) -> str:
        """What submits the run: its command, or that of the sweep that has it among its points."""
        if self.run.sweep:
            return f"give the sweep's own command, with `--name {self.run.sweep}` and --site"
        return f"`idxtrain submit --run-id {self.run.selector}`"

    def site(self) -> Site:
        """Return the site that the jobs were submitted to."""
        return validate(read_object(self.site_file, self.how_to_submit), str(self.site_file))

    def jobs(self) -> dict[str, str]:
        """Return the job ID of each submitted stage."""
        return {stage: str(job) for stage, job in read_object(self.jobs_file, self.how_to_submit).items()}

    def write_jobs(self, jobs: Mapping[str, str]) -> None:
        """Record the job ID of each stage."""
        write_json(self.jobs_file, dict(jobs))
        runs.date_last(self.run, _jobs_file)

    def record(self, event: Event, **facts: Any) -> None:
        """Append an event to the history. On a full disk the history stays as it is."""
        with suppress(OSError), self.history_file.open("a", encoding="utf-8") as history:
            history.write(json.dumps({"time": round(time.time(), 1), "event": event, **facts}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return the history since the last submission. A line that is not JSON is skipped."""
        entries: list[dict[str, Any]] = []
        for line in _lines(self.history_file):
            with suppress(ValueError):
                entry = json.loads(line)
                entries = [] if entry["event"] == "submitted" else [*entries, entry]
        return entries

    def last(self, stage: str, event: Event) -> dict[str, Any]:
        """Return the last event of this kind for a stage, or an empty dict."""
        entries = [entry for entry in self.history() if (entry.get("stage"), entry["event"]) == (stage, event)]
        return entries[-1] if entries else {}

    def has_ended(self, stage: str, job: str) -> bool:
        """Return whether a stage's job has ended, as far as it has recorded it, and has not been started again."""
        entries = [entry for entry in self.history() if entry.get("stage") == stage]
        return bool(entries) and entries[-1]["event"] == "ended" and entries[-1].get("job") == job

    def is_done(self, stage: JobStage) -> bool:
        """Return whether all stages of a job are done."""
        return all(is_done(self.run, name) for name in STAGES_OF[stage])

    def checkpoint_step(self) -> int:
        """Return the step of the last checkpoint, or 0."""
        return max((step_of(path.name) or 0 for path in self.run.checkpoints.glob("*.safetensors")), default=0)

    def require_progress(self, stage: JobStage, max_restarts: int) -> None:
        """Raise IdxtrainError where a stage started more than `max_restarts` times in a row at the same step."""
        step = self.checkpoint_step()
        starts = [e for e in self.history() if (e.get("stage"), e["event"]) == (stage, "started")]
        fruitless = 0
        for start in reversed(starts):
            if start.get("step") != step:
                break
            fruitless += 1
        if fruitless > max_restarts:
            raise IdxtrainError(
                f"{stage}: started {counted(fruitless, 'time')} at step {step} without progress; fix: give it more "
                f"time, or more checkpoints (train.checkpoint_every_steps), then {self.how_to_submit}"
            )

    def last_error(self, stage: str, job: str, since: int = 0) -> str:
        """Return the last error in a job's log after byte `since`: see `last_error_in`."""
        return last_error_in(self.log_file(stage, job), since)

    def log_size(self, stage: str, job: str) -> int:
        """Return the size of a job's log in bytes."""
        try:
            return self.log_file(stage, job).stat().st_size
        except OSError:
            return 0


def last_error_in(path: Path, since: int = 0) -> str:
    """Return the last error in a log after byte `since`, without its prefix: ours, else the last line."""
    try:
        with path.open("rb") as log:
            log.seek(max(since, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    errors = [match[1] for line in lines if (match := _ERROR.match(line))]
    said = errors or [line.strip() for line in lines if line.strip()]  # e.g. what bash or srun said
    return said[-1][:_MOST_SAID] if said else ""


def is_submitted(run_id: str | None, work: Work) -> bool:
    """Return whether this run, or without an ID any run, was submitted to Slurm; raise InputError for an invalid ID."""
    run = runs.find(work, run_id) if run_id else runs.latest(work, _jobs_file)
    return run is not None and SlurmJobs(run).jobs_file.exists()


def submitted_run(run_id: str | None, work: Work) -> SlurmJobs:
    """Return the jobs of this run, or of the run submitted last; raise InputError where there are none."""
    if run_id:
        run = runs.find(work, run_id)
        if run is None:
            raise InputError(f"run {run_id}: found no such run in {work.runs}; fix: {_SUBMIT}")
        jobs = SlurmJobs(run)
        if not jobs.jobs_file.exists():
            raise InputError(f"run {run_id}: was not submitted; fix: {jobs.how_to_submit}")
        return jobs
    last = runs.latest(work, _jobs_file)
    if last is None:
        raise InputError(f"--work {work.path}: found no submitted run in {work.runs}; fix: {_SUBMIT}")
    return SlurmJobs(last)


def _jobs_file(run: RunDir) -> Path:
    return SlurmJobs(run).jobs_file


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
