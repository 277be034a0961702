"""The lecture's network, trained by idxtrain for as long as a figure takes."""

from tests.benchmarks import machine
from tests.benchmarks.room import Room, run_training


def precisions() -> tuple[str, ...]:
    """Return the precisions that this machine has units for."""
    return ("float32", "bfloat16") if machine.has_bfloat16() else ("float32",)


def best(rounds_have: set[str]) -> str:
    """Return the quickest precision that was measured."""
    return "bfloat16" if "bfloat16" in rounds_have else "float32"


def images_per_second(
    room: Room,
    batch: int,
    precision: str = "float32",
    ranks: int = 1,
    threads: int | None = None,
    module: str = "jobs.train",
) -> float:
    """Train on global batches of that size; return images a second of all ranks, the first call left out.

    The rest is as in `room.run_training`.
    """
    sizes = room.sizes
    steps_a_call = max(1, sizes.images // batch // sizes.calls)
    settings = {
        "train.batch_size": batch,
        "train.precision": precision,
        "train.log_every": steps_a_call,
        "train.max_steps": (sizes.calls + 1) * steps_a_call,
    }
    return run_training(room.prepared_run("lecture", settings), ranks, threads, module)
