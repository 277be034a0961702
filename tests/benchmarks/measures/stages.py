"""The stages of a run on the archives, once and repeated, for measures 7 and 8."""

import shutil

from jobs.run_dir import RunDir, Work
from tests.benchmarks.room import Room, run_stage
from tests.benchmarks.timing import Done

STAGES = ("fetch", "prepare", "train", "evaluate")
# A network that costs almost nothing, so that an epoch of all rows is affordable: only the input may grow.
_SETTINGS = {"train.epochs": 1, "train.max_steps": None, "train.batch_size": 500, "train.cache": "never"}


def stage_run(room: Room, number: int, factor: int, stage: str) -> Done:
    """Run the stages up to this one in the round's own work folder. Each stage runs once per round."""
    run = RunDir(room.folder / f"stages-{factor}" / f"round-{number}" / "runs" / "r")
    if not run.path.exists():
        shutil.rmtree(room.folder / f"stages-{factor}", ignore_errors=True)  # the round before is over
        made = room.new_run(room.config(factor, "softmax", _SETTINGS))
        run.path.parent.mkdir(parents=True)
        made.path.rename(run.path)
    for each in STAGES[: STAGES.index(stage) + 1]:
        if (number, factor, each) not in room.stage_runs:
            room.stage_runs[number, factor, each] = run_stage(run, each, watch_memory=True)
    return room.stage_runs[number, factor, stage]


def work(room: Room, number: int, factor: int) -> Work:
    """Return the work folder of a round."""
    return Work(room.folder / f"stages-{factor}" / f"round-{number}")
