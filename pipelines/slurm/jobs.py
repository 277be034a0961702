"""A run's Slurm jobs on disk: every file of them, which job does which stage, and what became of each."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.slurm.script import job_name
from deploy.slurm.site import JOB_STAGES, JobStage, Site, validate
from jobs.checkpoint_names import step_of
from jobs.errors import IdxtrainError, InputError
from jobs.files import read_object, write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from pipelines.runs import date_last

# submitted: all jobs of the run, at once. started, ended: one job's process. again: put back into the queue.
Event = Literal["submitted", "started", "ended", "again"]
_STAGES_OF: Mapping[JobStage, tuple[str, ...]] = {
    "prepare": ("fetch", "prepare"),
    "train": ("train",),
    "evaluate": ("evaluate",),
}
_TAIL = 64 << 10  # bytes of a log in which its last words are looked for


@dataclass(frozen=True)
class SlurmJobs:
    """The files under `RUN/slurm`: a script, and a log of each job, for each stage; the site; jobs; their history."""

    run: RunDir

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.run.slurm

    @property
    def site_file(self) -> Path:
        """The site as it was when the jobs were submitted."""
        return self.folder / "site.json"

    @property
    def jobs_file(self) -> Path:
        """The ID of each stage's job."""
        return self.folder / "jobs.json"

    @property
    def history_file(self) -> Path:
        """One JSON line each time that jobs were submitted, started, ended, or put back into the queue."""
        return self.folder / "history.jsonl"

    def script_file(self, stage: JobStage) -> Path:
        """Return where a stage's batch script lies."""
        return self.folder / f"{stage}.sh"

    def log_file(self, stage: str, job: str) -> Path:
        """Return where Slurm writes what a job says."""
        return self.folder / f"{stage}-{job}.out"

    def names(self) -> dict[JobStage, str]:
        """Return what the jobs are called in the queue, by stage."""
        return {stage: job_name(self.run.run_id, stage) for stage in JOB_STAGES}

    def site(self) -> Site:
        """Return the site that the jobs were submitted to."""
        return validate(read_object(self.site_file, "submit the run with `idxtrain submit`"), str(self.site_file))

    def jobs(self) -> dict[str, str]:
        """Return the job ID of each stage that was submitted."""
        found = read_object(self.jobs_file, "submit the run with `idxtrain submit`")
        return {stage: str(job) for stage, job in found.items()}

    def write_jobs(self, jobs: Mapping[str, str]) -> None:
        """Write down which job does which stage."""
        write_json(self.jobs_file, dict(jobs))
        date_last(self.run, _jobs_file)

    def note(self, event: Event, **facts: Any) -> None:
        """Add to the history; on a full disk it stays as it is."""
        with suppress(OSError), self.history_file.open("a", encoding="utf-8") as history:
            history.write(json.dumps({"time": round(time.time(), 1), "event": event, **facts}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return the history since the jobs were submitted last; a torn line is passed over."""
        entries: list[dict[str, Any]] = []
        for line in _lines(self.history_file):
            with suppress(ValueError):
                entry = json.loads(line)
                entries = [] if entry["event"] == "submitted" else [*entries, entry]
        return entries

    def last(self, stage: str, event: Event) -> dict[str, Any]:
        """Return the last such event of a stage; an empty dict where there is none."""
        found = [entry for entry in self.history() if (entry.get("stage"), entry["event"]) == (stage, event)]
        return found[-1] if found else {}

    def is_done(self, stage: JobStage) -> bool:
        """Tell whether a job need not run."""
        return all(is_done(self.run, name) for name in _STAGES_OF[stage])

    def checkpoint_step(self) -> int:
        """Return the step of the last checkpoint; 0 where there is none."""
        return max((step_of(path.name) or 0 for path in self.run.checkpoints.glob("*.safetensors")), default=0)

    def require_progress(self, stage: JobStage, max_restarts: int) -> None:
        """Raise IdxtrainError where the last starts of a stage, more than allowed, have all begun at this same step."""
        step = self.checkpoint_step()
        starts = [e for e in self.history() if (e.get("stage"), e["event"]) == (stage, "started")]
        fruitless = 0
        for start in reversed(starts):
            if start.get("step") != step:
                break
            fruitless += 1
        if fruitless > max_restarts:
            raise IdxtrainError(
                f"{stage}: was started {fruitless} times at step {step} and came no further; give it more time or "
                "checkpoints more often (train.checkpoint_every_steps), then submit the run again"
            )

    def last_words(self, stage: str, job: str, since: int = 0) -> str:
        """Return the last line `idxtrain: …` in a job's log behind byte `since`, without its first word."""
        try:
            with self.log_file(stage, job).open("rb") as log:
                log.seek(max(since, log.seek(0, os.SEEK_END) - _TAIL))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.partition(": ")[2] for line in reversed(lines) if line.startswith("idxtrain: ")), "")

    def log_size(self, stage: str, job: str) -> int:
        """Return how much a job's log holds by now, in bytes."""
        try:
            return self.log_file(stage, job).stat().st_size
        except OSError:
            return 0


def submitted_run(run_id: str | None, work: Work) -> SlurmJobs:
    """Return the jobs of the run that is named, else of the last submitted; raise InputError where there are none."""
    from pipelines import runs

    if run_id:
        found = runs.find(work, run_id)
        if found is None:
            raise InputError(f"found no run {run_id} in {work.runs}; `idxtrain submit` makes one")
        jobs = SlurmJobs(found)
        if not jobs.jobs_file.exists():
            raise InputError(f"run {run_id}: was not submitted; submit it with `idxtrain submit --run-id {run_id}`")
        return jobs
    last = runs.latest(work, _jobs_file)
    if last is None:
        raise InputError(f"found no submitted run in {work.runs}; `idxtrain submit` makes one")
    return SlurmJobs(last)


def _jobs_file(run: RunDir) -> Path:
    return SlurmJobs(run).jobs_file


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
