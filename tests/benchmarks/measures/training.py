"""Train the lecture's network with idxtrain, as long as a figure needs."""

from tests.benchmarks import machine
from tests.benchmarks.room import Room, run_training


def precisions() -> tuple[str, ...]:
    """Return the precisions to measure: bfloat16 only where the processor is faster in it."""
    return ("float32", "bfloat16") if machine.has_bfloat16() else ("float32",)


def best(rounds_have: set[str]) -> str:
    """Return the fastest precision that was measured."""
    return "bfloat16" if "bfloat16" in rounds_have else "float32"


def images_per_second(
    room: Room,
    batch: int,
    precision: str = "float32",
    ranks: int = 1,
    threads: int | None = None,
    module: str = "jobs.train",
    whole_epoch: bool = False,
) -> float:
    """Train on global batches of `batch` images; return images per second of all ranks, without the first call.

    `whole_epoch`: time all steps of an epoch, not only some. See `room.run_training` for the rest.
    """
    sizes = room.sizes
    images, calls = (sizes.epoch, sizes.epoch_calls) if whole_epoch else (sizes.images, sizes.calls + 1)
    steps = -(-images // batch) if whole_epoch else max(1, images // batch // sizes.calls) * calls
    settings = {
        "train.batch_size": batch,
        "train.precision": precision,
        "train.log_every": -(-steps // calls),
        "train.max_steps": steps,
    }
    return run_training(room.prepared_run("lecture", settings), ranks, threads, module)
