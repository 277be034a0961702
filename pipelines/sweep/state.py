"""idxtrain status, cancel and logs of a sweep, on Slurm or on this machine."""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.slurm import queue, reasons
from deploy.slurm.queue import Queued
from deploy.slurm.script import job_name
from jobs.errors import IdxtrainError, InputError, ResumableError
from jobs.files import read_object
from jobs.lease import living_owner
from jobs.run_dir import Work
from jobs.stage import STAGES
from jobs.text_table import text_table
from jobs.words import counted
from pipelines import runs
from pipelines.history.progress import training_progress
from pipelines.history.summary import summary_of
from pipelines.slurm import status
from pipelines.slurm.jobs import SlurmJobs, last_error_in
from pipelines.slurm.status import Row
from pipelines.sweep.grid import Point, Sweep, read_sweep
from pipelines.sweep.results import BEST

# Of Slurm's states and of runs on this machine. Others are shown as they are.
_WORDS = {
    "PENDING": "waiting",
    "COMPLETING": "running",
    "CONFIGURING": "running",
    "COMPLETED": "trained",
    "finished": "trained",
    "": "not submitted",
}


def sweep_named(name: str | None, work: Work) -> Sweep | None:
    """Return the sweep of this name; None if there is none, or a run has the name. Raises InputError for odd names."""
    if name is None or runs.find(work, name) is not None or not (work.sweeps / name / "sweep.json").exists():
        return None
    return read_sweep(name, work)


def lines(sweep: Sweep) -> tuple[list[str], int]:
    """Return the state of a sweep as lines of text, and the exit code of its first failed job, or 0."""
    trainings = _submitted(sweep) if _is_submitted(sweep) else _here(sweep)
    return _table(sweep, *trainings)


def _submitted(sweep: Sweep) -> tuple[list[Row], list[Row]]:
    """Return the rows of the jobs around the array, and of its tasks. Slurm is asked once."""
    ids = _ids(sweep)
    all_jobs = [SlurmJobs(sweep.run(point)) for point in sweep.points]
    queued, silent = status.ask(sweep.scripts())
    prepare = status.stage_row(all_jobs[0], "prepare", queued, silent)
    trained = [status.stage_row(jobs, "train", queued, silent) for jobs in all_jobs]
    return [prepare, *_last_row(sweep, ids.get("evaluate", ""), queued, silent)], trained


def _last_row(sweep: Sweep, number: str, queued: Mapping[str, Queued], silent: str) -> Iterator[Row]:
    """Yield the row of the job that prints the table, if it was submitted. `queued`, `silent`: see `status.ask`."""
    if not number:
        return
    log = sweep.table_log(number)
    job = queued.get(number) or _forgotten(sweep, number, silent)
    detail, code = reasons.why_pending(job.reason) if job.state == "PENDING" else "", 0
    if job.state == "CANCELLED":
        code = ResumableError.exit_code
    elif job.state == "UNKNOWN":
        detail, code = silent, ResumableError.exit_code
    elif job.over and job.state != "COMPLETED":
        why = last_error_in(log)
        detail, code = f"{why}; see {log}" if why else f"see {log}", IdxtrainError.exit_code
    yield Row(
        stage="table", job=number, state=job.state, elapsed=job.elapsed, nodes=job.nodes, detail=detail, code=code
    )


def _forgotten(sweep: Sweep, number: str, silent: str) -> Queued:
    """Return the job of the table as its log or Slurm's accounting show it: the queue no longer has it."""
    log, elapsed = sweep.table_log(number), ""
    if _has_finished(log):
        state = "COMPLETED"
    elif silent:
        state = "UNKNOWN"
    elif accounted := queue.account(number, [job_name(sweep.name, "evaluate")]):
        state, elapsed = accounted
    else:
        state = "FAILED" if log.exists() else "CANCELLED"
    return Queued(job=number, state=state, elapsed=elapsed, nodes="", reason="", name="", script="")


def _has_finished(log: Path) -> bool:
    """Return whether the job of the table has printed the best point, which it does at its end."""
    try:
        return any(line.startswith(BEST) for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return False


def _here(sweep: Sweep) -> tuple[list[Row], list[Row]]:
    """Return the rows of trainings on this machine."""
    rows = []
    for point in sweep.points:
        run = sweep.run(point)
        summary = summary_of(run)
        state = summary.state if summary else "not started"
        is_training = summary is not None and summary.stage == "train"
        progress = training_progress(run, is_running=state == "running") if is_training else None
        detail = str(progress or (summary.stage if summary and state == "running" else ""))
        rows.append(Row(stage="train", job="", state=state, elapsed="", nodes="", detail=detail))
    return [], rows


def _table(sweep: Sweep, around: Sequence[Row], trained: Sequence[Row]) -> tuple[list[str], int]:
    """Return the lines and the exit code. `around`: the rows of other jobs; `trained`: one for each point."""
    keys = [each.partition("=")[0] for each in sweep.points[0].settings]
    has_jobs, has_folds = bool(around), any(point.fold for point in sweep.points)
    header = ["run", *keys, *["fold"] * has_folds, *["job"] * has_jobs, "state", *["time", "nodes"] * has_jobs, ""]
    none = ("",) * len(keys)
    named = [(row.stage, none, "", row) for row in around if row.stage == "prepare"]
    named += [(point.run_id, _values(point), point.fold, row) for point, row in zip(sweep.points, trained, strict=True)]
    named += [(row.stage, none, "", row) for row in around if row.stage != "prepare"]
    cells = []
    for name, values, fold, row in named:
        jobs, where = ([row.job or "–"], [row.elapsed, row.nodes]) if has_jobs else ([], [])
        detail = "" if _has_failed(row) else row.detail
        cells.append([name, *values, *[fold] * has_folds, *jobs, row.state or "–", *where, detail])
    text = [f"sweep {sweep.name}: {_summary(trained)}", *text_table(header, cells)]
    text += [f"{name} failed (job {row.job}): {row.detail}" for name, _, _, row in named if _has_failed(row)]
    return text, next((row.code for *_, row in named if row.code), 0)


def _has_failed(row: Row) -> bool:
    return row.code not in (0, ResumableError.exit_code)


def _summary(trained: Sequence[Row]) -> str:
    """Return the number of runs, and of those in each state, in words."""
    states = Counter("failed" if _has_failed(row) else _WORDS.get(row.state, row.state.lower()) for row in trained)
    return ", ".join([counted(len(trained), "run"), *(f"{number} {state}" for state, number in states.items())])


def _values(point: Point) -> tuple[str, ...]:
    return tuple(each.partition("=")[2] for each in point.settings)


def cancel(sweep: Sweep) -> str:
    """Cancel a sweep's jobs, or ask its process on this machine to stop; return what was done, in a line.

    Raises InputError where the process is on another machine.
    """
    if _is_submitted(sweep):
        cancelled = status.cancel_active(queue.find(sweep.scripts()))
        return f"cancelled {', '.join(cancelled)}" if cancelled else "nothing to cancel: no job is queued"
    owner = next((each for point in sweep.points if (each := living_owner(sweep.run(point).lock_file))), None)
    if owner is None:
        return "nothing to cancel: no run is being trained"
    if not owner.runs():
        raise InputError(
            f"sweep {sweep.name}: found its process {owner.pid} on {owner.host}, expected it here; fix: cancel it there"
        )
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    return f"stopping: process {owner.pid} writes a checkpoint first"


def log_lines(sweep: Sweep, follow: bool) -> Iterator[str]:
    """Yield the lines of the logs of a sweep's runs; with `follow`, new lines too, while it runs.

    Raises InputError where no log exists yet.
    """
    is_submitted = _is_submitted(sweep)

    def logs() -> Iterator[tuple[str, Path]]:
        return _job_logs(sweep) if is_submitted else _logs_here(sweep)

    def is_active() -> bool:
        if is_submitted:
            return any(not job.over for job in queue.find(sweep.scripts()))
        return any(living_owner(sweep.run(point).lock_file) for point in sweep.points)

    return status.lines_of(logs, is_active if follow else None, f"sweep {sweep.name}")


def _job_logs(sweep: Sweep) -> Iterator[tuple[str, Path]]:
    for point in sweep.points:
        jobs = SlurmJobs(sweep.run(point))
        for stage, job in jobs.jobs().items():
            yield f"{point.run_id}: {stage}", jobs.log_file(stage, job)
    yield "table", sweep.table_log(_ids(sweep).get("evaluate", ""))


def _logs_here(sweep: Sweep) -> Iterator[tuple[str, Path]]:
    for point in sweep.points:
        for stage in STAGES:
            yield f"{point.run_id}: {stage}", sweep.run(point).logs / f"{stage}.log"


def _is_submitted(sweep: Sweep) -> bool:
    return sweep.jobs_file.exists()


def _ids(sweep: Sweep) -> dict[str, str]:
    """Return the job IDs by stage."""
    ids = read_object(sweep.jobs_file, "submit the sweep with `idxtrain sweep`")
    return {stage: str(job) for stage, job in ids.items()}
