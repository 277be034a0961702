"""idxtrain status, cancel and logs: the state of a run's Slurm jobs.

A job's state comes from the queue while Slurm keeps it there, else from Slurm's accounting or the run folder.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm import queue, reasons
from deploy.slurm.queue import NoSlurmError, Queued
from deploy.slurm.site import JOB_STAGES, JobStage
from jobs.errors import IdxtrainError, InputError, ResumableError
from jobs.text_table import text_table
from pipelines.history.progress import training_progress
from pipelines.slurm.jobs import SlurmJobs

_FOLLOW_SECONDS = 0.5
_ASK_SECONDS = 5.0  # between two requests to the controller, which all users share


@dataclass(frozen=True, kw_only=True)
class Row:
    """The job of one stage. `state`: Slurm's; `detail`: for people; `code`: the exit code of a failed stage, else 0."""

    stage: str
    job: str
    state: str
    elapsed: str
    nodes: str
    detail: str
    code: int = 0


@dataclass(frozen=True, kw_only=True)
class _JobFacts:
    """What is known of a job. `reason`: why it waits, as Slurm names it."""

    state: str
    elapsed: str = ""
    nodes: str = ""
    reason: str = ""


def rows(jobs: SlurmJobs) -> list[Row]:
    """Return the state of each stage's job, in order."""
    queued, silent = ask([*jobs.scripts(), *jobs.sweep_scripts()])
    stages: list[Row] = []
    for stage in JOB_STAGES:
        failed = next((row for row in stages if row.code and row.state != "UNKNOWN"), None)
        stages.append(stage_row(jobs, stage, queued, silent, failed))
    return stages


def ask(scripts: Iterable[Path]) -> tuple[dict[str, Queued], str]:
    """Return the jobs with these scripts that the queue still has, by ID, and why Slurm does not answer, if so."""
    try:
        return {job.job: job for job in queue.find(scripts)}, ""
    except NoSlurmError as error:
        return {}, str(error)


def stage_row(
    jobs: SlurmJobs, stage: JobStage, queued: Mapping[str, Queued], silent: str, failed: Row | None = None
) -> Row:
    """Return the row of one stage. `queued`, `silent`: from `ask`. `failed`: the row of an earlier, failed stage."""
    job = jobs.jobs().get(stage, "")
    if silent and job and not jobs.is_done(stage) and not jobs.has_ended(stage, job):
        return _unknown(stage, job, silent)
    return _row(jobs, stage, job, queued.get(job), failed)


def _unknown(stage: str, job: str, silent: str) -> Row:
    """Return the row of a job whose state only Slurm knows, which does not answer."""
    code = ResumableError.exit_code
    return Row(stage=stage, job=job, state="UNKNOWN", elapsed="", nodes="", detail=silent, code=code)


def _row(jobs: SlurmJobs, stage: JobStage, job: str, queued: Queued | None, failed: Row | None) -> Row:
    """Return the row of one stage. `failed`: the row of an earlier stage that failed."""
    if jobs.is_done(stage):
        elapsed, nodes = (queued.elapsed, queued.nodes) if queued else ("", "")
        facts, detail, code = _JobFacts(state="COMPLETED", elapsed=elapsed, nodes=nodes), "done", 0
    elif not job:
        facts, detail, code = _JobFacts(state=""), "not submitted", 0
    else:
        facts = _facts(jobs, stage, job, queued)
        detail, code = _detail(jobs, stage, job, facts, failed)
    return Row(
        stage=stage,
        job=job,
        state=facts.state,
        elapsed=facts.elapsed,
        nodes=facts.nodes,
        detail=detail,
        code=code,
    )


def _facts(jobs: SlurmJobs, stage: str, job: str, queued: Queued | None) -> _JobFacts:
    """Return what the first source that knows the job reports: the queue, the accounting, the run folder."""
    if queued:
        return _JobFacts(state=queued.state, elapsed=queued.elapsed, nodes=queued.nodes, reason=queued.reason)
    accounted = queue.account(job, jobs.names(stage))
    if accounted:
        state, elapsed = accounted
        return _JobFacts(state=state, elapsed=elapsed)
    ended = jobs.last(stage, "ended")
    if ended.get("job") == job:
        return _JobFacts(state="FAILED" if ended["code"] else "COMPLETED")
    started = jobs.last(stage, "started")
    return _JobFacts(state="LOST" if started.get("job") == job else "CANCELLED")


def _detail(jobs: SlurmJobs, stage: JobStage, job: str, facts: _JobFacts, failed: Row | None) -> tuple[str, int]:
    """Return what to show beside a job that is not done, and its exit code: 0 unless it failed."""
    if facts.state == "PENDING":
        return reasons.why_pending(facts.reason), 0
    if facts.state in ("RUNNING", "COMPLETING", "CONFIGURING"):
        return _progress(jobs) if stage == "train" else "", 0
    if failed:
        return f"cannot run, as {failed.stage} failed", 0
    ended = jobs.last(stage, "ended")
    recorded = bool(ended.get("job") == job and ended.get("code"))
    if facts.state == "CANCELLED" and (not recorded or ended["code"] == ResumableError.exit_code):
        return "cancelled", ResumableError.exit_code
    host = f" on {ended['host']}" if ended.get("host") else ""
    said = jobs.last_error(stage, job) if facts.state == "FAILED" else ""
    why = str(
        (recorded and ended.get("why")) or f"ended as {facts.state}{host}{f'; its last line: {said}' if said else ''}"
    )
    return why, int(ended["code"]) if recorded else IdxtrainError.exit_code


def _progress(jobs: SlurmJobs) -> str:
    progress = training_progress(jobs.run, is_running=True)
    return str(progress) if progress else "starting"


def lines(jobs: SlurmJobs, stages: Sequence[Row]) -> list[str]:
    """Return the table, one line per stage, then one line per failed stage with the reason."""
    text = text_table(
        ("stage", "job", "state", "time", "nodes", ""),
        [
            (row.stage, row.job or "–", row.state or "–", row.elapsed, row.nodes, "" if row.code else row.detail)
            for row in stages
        ],
    )
    starts = len([entry for entry in jobs.history() if entry["event"] == "started" and entry.get("stage") == "train"])
    if starts > 1:
        text.append(f"train was started {starts} times; the reasons are in {jobs.history_file}")
    text += [f"{row.stage} {_verdict(row)} (job {row.job}): {row.detail}" for row in stages if row.code]
    return text


def _verdict(row: Row) -> str:
    return "is unknown" if row.state == "UNKNOWN" else "failed"


def exit_code(stages: Sequence[Row]) -> int:
    """Return the exit code of the first stage that failed, or 0."""
    return next((row.code for row in stages if row.code), 0)


def cancel(jobs: SlurmJobs) -> list[str]:
    """Cancel all jobs of a run that are not over; return their IDs."""
    return cancel_active(_queued(jobs))


def cancel_active(queued: Iterable[Queued]) -> list[str]:
    """Cancel those jobs that are not over; return their IDs."""
    active = [job.job for job in queued if not job.over]
    queue.cancel(active)
    return active


def _queued(jobs: SlurmJobs) -> list[Queued]:
    return jobs.own(queue.find([*jobs.scripts(), *jobs.sweep_scripts()]))


def log_lines(jobs: SlurmJobs, follow: bool) -> Iterator[str]:
    """Yield the lines of the jobs' logs, stage by stage; with `follow`, new lines too, until no job is queued.

    Raises InputError where no log exists yet.
    """

    def logs() -> Iterator[tuple[str, Path]]:
        known = jobs.jobs()
        return ((stage, jobs.log_file(stage, known[stage])) for stage in JOB_STAGES if stage in known)

    def is_active() -> bool:
        return any(not job.over for job in _queued(jobs))

    yield from lines_of(logs, is_active if follow else None, f"run {jobs.run.run_id}")


def lines_of(
    logs: Callable[[], Iterable[tuple[str, Path]]], is_active: Callable[[], bool] | None, what: str
) -> Iterator[str]:
    """Yield the lines of log files, each after a line with its title.

    `logs`: returns titles and paths; some may not exist yet. `is_active`: more lines may come, which are yielded, too;
    None: do not wait for them. `what`: has these logs. Raises InputError where no log exists yet.
    """
    offsets: dict[Path, int] = {}
    asked, more = float("-inf"), True
    while more:
        if is_active is None:
            more = False
        elif time.monotonic() - asked > _ASK_SECONDS:
            asked = time.monotonic()
            more = is_active()
        for title, path in logs():
            yield from _new_lines(path, offsets, title)
        if more:
            time.sleep(_FOLLOW_SECONDS)
    if not offsets:
        raise InputError(f"{what}: found no logs of its jobs yet; fix: see `idxtrain status`")


def _new_lines(path: Path, offsets: dict[Path, int], title: str) -> Iterator[str]:
    """Yield the whole lines of a file after its offset in bytes; advance the offset."""
    try:
        with path.open("rb") as log:
            log.seek(offsets.get(path, 0))
            text = log.read()
    except OSError:
        return
    if path not in offsets:
        yield f"==> {title} ({os.path.relpath(path)})"
    whole = text.rpartition(b"\n")[0] + b"\n" if b"\n" in text else b""
    offsets[path] = offsets.get(path, 0) + len(whole)
    yield from whole.decode(errors="replace").splitlines()
