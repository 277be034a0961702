"""`idxtrain status` of a run that was not submitted to Slurm: its stages on this machine."""

from collections.abc import Iterator
from contextlib import suppress

from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.stage import STAGES, dataset_of, read_record
from jobs.text_table import text_table
from pipelines.history.progress import training_progress
from pipelines.history.sizes import in_store
from pipelines.history.summary import summary_of


def lines(run: RunDir) -> list[str]:
    """Return the state of each stage as a table."""
    return text_table(("stage", "state", "seconds", ""), list(_stages(run)), right=(2,))


def _elsewhere(run: RunDir) -> str:
    """Return where the shards of a run's dataset are if that is an object store; else an empty text."""
    with suppress(InputError):
        return in_store(dataset_of(run))
    return ""


def _stages(run: RunDir) -> Iterator[tuple[str, str, str, str]]:
    summary = summary_of(run)
    if summary is None:
        raise InputError(f"{run.config_file}: found no such file, expected that of a run")
    is_running = summary.state == "running"
    for stage in STAGES:
        if run.record_file(stage).exists():
            yield stage, "done", f"{read_record(run, stage).seconds:.1f}", _elsewhere(run) if stage == "prepare" else ""
        elif stage == summary.stage:
            progress = training_progress(run, is_running=is_running) if stage == "train" else None
            state = "running" if is_running else "stopped" if progress else "not started"
            yield stage, state, "", str(progress or "")
        else:
            yield stage, "waits" if is_running else "not started", "", ""
