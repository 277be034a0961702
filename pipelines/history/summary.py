"""A run in short: what it trained, how far it came, what it reached.

Read from the run's JSON files alone, so that a thousand runs take less than a second.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from deploy.slurm import queue
from jobs import training_log
from jobs.errors import IdxtrainError, InputError
from jobs.files import read_object
from jobs.lease import living_owner
from jobs.run_dir import RunDir, Work
from jobs.stage import STAGES
from pipelines import runs
from pipelines.slurm.jobs import SlurmJobs

# finished: evaluated. trained: not evaluated, such as most runs of a sweep. running: a process works on it. queued: its
# Slurm jobs wait. stopped: it can be resumed. unreadable: its config is damaged.
State = Literal["finished", "trained", "running", "queued", "stopped", "unreadable"]
STATES: tuple[State, ...] = ("finished", "trained", "running", "queued", "stopped", "unreadable")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in short.

    `made`: when its config was written, in Unix seconds. `data`: the data set's name. `stage`: the first one that has
    not finished; empty if all have. `step`: updates done, of a training under way. `accuracy`: on the test images, and
    `validation`: on the validation split; None if not known.
    """

    run: RunDir
    made: float
    state: State
    recipe: str = ""
    data: str = ""
    seed: int | None = None
    stage: str = ""
    step: int = 0
    accuracy: float | None = None
    validation: float | None = None


def summaries(work: Work) -> list[Summary]:
    """Return all runs of a work folder, the newest first; raise InputError where the folder cannot be read.

    Other users' private runs are left out.
    """
    found = with_queue([each for run in runs.all_of(work) if (each := summary_of(run)) is not None])
    return sorted(found, key=lambda each: (-each.made, each.run.run_id))


def with_queue(summaries: Sequence[Summary]) -> list[Summary]:
    """Return runs with the state "queued" where a run would otherwise only wait for someone to resume it."""
    waiting = [each for each in summaries if each.state in ("stopped", "trained")]
    queued = queued_runs([each.run for each in waiting])
    return [replace(each, state="queued") if each.run.run_id in queued else each for each in summaries]


def summary_of(run: RunDir) -> Summary | None:
    """Return a run in short, or None for a folder that is no run."""
    made = runs.written(run.config_file) / 1e9
    if made < 0:
        return None
    try:
        config = run.read_config()
    except (InputError, OSError):
        return Summary(run=run, made=made, state="unreadable")
    stage = next((stage for stage in STAGES if not run.record_file(stage).exists()), "")
    metrics = _object(run, run.metrics_file.name) if not stage else {}
    state = _state(run, stage)
    return Summary(
        run=run,
        made=made,
        state=state,
        recipe=_text(config, "recipe"),
        data=_text(config, "fetch", "dataset"),
        seed=_at(config, int, "seed"),
        stage=stage,
        step=_step(run) if stage == "train" else 0,
        accuracy=_at(metrics, float, "test", "accuracy"),
        validation=_validation(run, stage, metrics),
    )


def _state(run: RunDir, stage: str) -> State:
    if living_owner(run.lock_file) is not None:
        return "running"
    if not stage:
        return "finished"
    return "trained" if stage == "evaluate" else "stopped"


def _step(run: RunDir) -> int:
    """Return the updates of a training that has not finished, by its log."""
    with suppress(OSError):
        return max((entry["step"] for entry in training_log.read(run.curve_file)), default=0)
    return 0


def _validation(run: RunDir, stage: str, metrics: Mapping[str, Any]) -> float | None:
    """Return the validation accuracy of the saved model, or the last one so far of a training that has not finished."""
    if not stage:
        return _at(metrics, float, "validation", "accuracy")
    if stage == "evaluate":
        return _at(_object(run, "stages/train.json"), float, "outputs", "validation", "accuracy")
    if stage == "train":
        with suppress(OSError):
            entries = [each for each in training_log.read(run.curve_file) if each["kind"] == "validation"]
            return _at(entries[-1], float, "accuracy") if entries else None
    return None


def queued_runs(chosen: Sequence[RunDir]) -> frozenset[str]:
    """Return the IDs of the runs whose Slurm jobs are not over. Slurm is asked once, and only for submitted runs."""
    submitted = [jobs for run in chosen if runs.written((jobs := SlurmJobs(run)).jobs_file) >= 0]
    if not submitted:
        return frozenset()
    scripts = [script for jobs in submitted for script in (*jobs.scripts(), *jobs.sweep_scripts())]
    try:
        active = [job for job in queue.find(scripts) if not job.over]
    except (IdxtrainError, OSError):  # no Slurm here
        return frozenset()
    waiting: set[str] = set()
    for jobs in submitted if active else []:
        with suppress(InputError):  # its jobs are unknown
            waiting |= {jobs.run.run_id} if jobs.own(active) else set()
    return frozenset(waiting)


def _object(run: RunDir, name: str) -> dict[str, Any]:
    """Return a JSON object of a run, empty where there is none that can be read."""
    try:
        return read_object(run.path / name, "")
    except InputError:
        return {}


def _at(values: Any, kind: type, *keys: str) -> Any:
    """Return a value by its keys, or None where there is none of that type."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    kinds = (int, float) if kind is float else kind
    return values if isinstance(values, kinds) and not isinstance(values, bool) else None


def _text(values: Any, *keys: str) -> str:
    return _at(values, str, *keys) or ""
