"""idxtrain status, cancel and logs: what became of a run's Slurm jobs.

Told by the queue while that knows them, then by Slurm's accounting where there is one, then by the run directory.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm import queue
from deploy.slurm.queue import NoSlurmError, Queued
from deploy.slurm.site import JOB_STAGES, JobStage
from jobs import training_log
from jobs.errors import IdxtrainError, InputError, ResumableError
from pipelines.slurm.jobs import SlurmJobs

_FOLLOW_SECONDS = 0.5
_ASK_SECONDS = 5.0  # between two questions to the controller, which all users share
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Row:
    """One stage's job. `state`: Slurm's; `code`: the exit code of a stage that failed, else 0."""

    stage: str
    job: str
    state: str
    elapsed: str
    nodes: str
    note: str
    code: int = 0


def rows(jobs: SlurmJobs) -> list[Row]:
    """Return what became of each stage, in order."""
    known = jobs.jobs()
    try:
        queued = {job.job: job for job in queue.find(jobs.names().values(), known.values())}
    except NoSlurmError:
        queued = {}
    found: list[Row] = []
    for stage in JOB_STAGES:
        failed = next((row for row in found if row.code), None)
        found.append(_row(jobs, stage, known.get(stage, ""), queued.get(known.get(stage, "")), failed))
    return found


def _row(jobs: SlurmJobs, stage: JobStage, job: str, queued: Queued | None, failed: Row | None) -> Row:
    if not job or jobs.is_done(stage):
        done = jobs.is_done(stage)
        elapsed, nodes = (queued.elapsed, queued.nodes) if queued else ("", "")
        return Row(stage, job, "COMPLETED" if done else "", elapsed, nodes, "done" if done else "not submitted")
    state, elapsed, nodes, reason = _facts(jobs, stage, job, queued)
    if state == "PENDING":
        waits = {"Dependency": "waits for the stage before", "BeginTime": "starts again soon"}.get(reason, reason)
        return Row(stage, job, state, elapsed, nodes, waits)
    if state in ("RUNNING", "COMPLETING", "CONFIGURING"):
        return Row(stage, job, state, elapsed, nodes, _progress(jobs) if stage == "train" else "")
    if failed:
        return Row(stage, job, state, elapsed, nodes, f"cannot run, as {failed.stage} failed")
    ended = jobs.last(stage, "ended")
    told = ended.get("job") == job and ended.get("code")
    if state == "CANCELLED" and (not told or ended["code"] == ResumableError.exit_code):
        return Row(stage, job, state, elapsed, nodes, "cancelled", ResumableError.exit_code)
    code = int(ended["code"]) if told else IdxtrainError.exit_code
    host = f" on {ended['host']}" if ended.get("host") else ""
    return Row(stage, job, state, elapsed, nodes, str((told and ended.get("why")) or f"ended as {state}{host}"), code)


def _facts(jobs: SlurmJobs, stage: str, job: str, queued: Queued | None) -> tuple[str, str, str, str]:
    """Return a job's state, time, nodes, and the reason why it is not running."""
    if queued:
        return queued.state, queued.elapsed, queued.nodes, queued.reason
    accounted = queue.account(job)
    if accounted:
        return *accounted, "", ""
    ended = jobs.last(stage, "ended")
    if ended.get("job") == job:
        return "FAILED" if ended["code"] else "COMPLETED", "", "", ""
    started = jobs.last(stage, "started")
    return ("LOST" if started.get("job") == job else "CANCELLED"), "", "", ""


def _progress(jobs: SlurmJobs) -> str:
    try:
        steps = [entry["step"] for entry in training_log.read(jobs.run.curve_file)]
    except OSError:
        steps = []
    return f"at step {steps[-1]}" if steps else "starting"


def lines(jobs: SlurmJobs, found: Sequence[Row]) -> list[str]:
    """Return the table, one stage a line; then, of a run that failed, which stage and why, on one line."""
    table = [(row.stage, row.job or "–", row.state or "–", row.elapsed, row.nodes, row.note) for row in found]
    shown = [("stage", "job", "state", "time", "nodes", ""), *table]
    shown = [
        (*cells[:-1], "" if row and row.code else cells[-1]) for cells, row in zip(shown, (None, *found), strict=True)
    ]
    widths = [max(len(cells[column]) for cells in shown) for column in range(5)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]).rstrip()
        for cells in shown
    ]
    restarts = len([entry for entry in jobs.history() if entry["event"] == "started" and entry.get("stage") == "train"])
    if restarts > 1:
        text.append(f"train was started {restarts} times; why is in {jobs.history_file}")
    text += [f"{row.stage} failed (job {row.job}): {row.note}" for row in found if row.code]
    return text


def exit_code(found: Sequence[Row]) -> int:
    """Return the exit code of the first stage that failed, else 0."""
    return next((row.code for row in found if row.code), 0)


def cancel(jobs: SlurmJobs) -> list[str]:
    """Cancel all jobs of a run that are not over; return their IDs."""
    found = queue.find(jobs.names().values(), jobs.jobs().values())
    going = [job.job for job in found if not job.over]
    queue.cancel(going)
    return going


def log_lines(jobs: SlurmJobs, follow: bool) -> Iterator[str]:
    """Yield what the run's jobs said, stage by stage; with `follow`, what they say, until none is in the queue."""
    known = jobs.jobs()
    places: dict[Path, int] = {}
    asked, going = float("-inf"), True
    while going:
        if follow and time.monotonic() - asked > _ASK_SECONDS:
            asked = time.monotonic()
            going = any(not job.over for job in queue.find(jobs.names().values(), jobs.jobs().values()))
        elif not follow:
            going = False
        known = jobs.jobs()
        for stage in JOB_STAGES:
            if stage in known:
                yield from _new_lines(jobs.log_file(stage, known[stage]), places, stage)
        if going:
            time.sleep(_FOLLOW_SECONDS)
    if not places:
        raise InputError(f"run {jobs.run.run_id}: its jobs have said nothing yet; see `idxtrain status`")


def _new_lines(path: Path, places: dict[Path, int], stage: str) -> Iterator[str]:
    """Yield the whole lines that were added to a file since it was last looked at."""
    try:
        with path.open("rb") as log:
            log.seek(places.get(path, 0))
            text = log.read()
    except OSError:
        return
    if path not in places:
        yield f"==> {stage} ({os.path.relpath(path)})"
    whole = text.rpartition(b"\n")[0] + b"\n" if b"\n" in text else b""
    places[path] = places.get(path, 0) + len(whole)
    yield from whole.decode(errors="replace").splitlines()
