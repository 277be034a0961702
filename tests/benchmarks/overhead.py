"""python -m tests.benchmarks.overhead: what checkpoints and the flight recorder cost a training.

For each recipe's network: the time that training waits for a checkpoint (while its state is copied), the time that the
writing thread takes, and the time of the flight recorder per `steps_per_execution` call.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs.dataset import Manifest, PixelStatistics
from jobs.flight_log import Flight
from jobs.tensorflow_import import import_tensorflow
from jobs.train import checkpoint
from jobs.train.telemetry.flight_recorder import FlightRecorder
from pipelines import recipes

_REPEATS = 9


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import_tensorflow(folder / "tensorflow.log")
        print("| network | state | training waits | thread writes |")
        print("|---|---:|---:|---:|")
        for recipe in ("fast", "lecture"):
            print(checkpoint_row(recipe, folder / recipe))
        recorder = FlightRecorder(folder / "flight.jsonl")
        flight = Flight(step=50, images=12800, input=0.001, compute=0.7, allreduce=0.05)
        seconds = median_seconds(lambda: recorder.record(flight), 1000)
        print(f"\nflight recorder: {1e6 * seconds:.0f} µs per steps_per_execution call")


def checkpoint_row(recipe: str, folder: Path) -> str:
    from jobs.train.compute.network import Network
    from jobs.train.config import TrainConfig

    config = TrainConfig.model_validate(recipes.load(recipe).sections["train"])
    network = Network(config, mnist_manifest(), seed=0, precision="float32")
    folder.mkdir()
    writer = checkpoint.Writer(folder, keep=3)
    waits, writes = [], []
    for step in range(_REPEATS):
        begin = time.perf_counter()
        position = checkpoint.Position(step + 1, "key")
        writer.save(checkpoint.Checkpoint(position=position, arrays=network.state()))
        waits.append(time.perf_counter() - begin)
        writer.wait()
        writes.append(time.perf_counter() - begin - waits[-1])
    megabytes = network.state_bytes / 1e6
    wait, write = (1000 * statistics.median(seconds) for seconds in (waits, writes))
    return f"| {recipe}'s {config.model} | {megabytes:.1f} MB | {wait:.1f} ms | {write:.0f} ms |"


def mnist_manifest() -> Manifest:
    """Return a manifest with what a network reads: shape, classes and pixels."""
    return Manifest.model_construct(
        shape=(28, 28, 1), classes=10, pixels=PixelStatistics(mean=0.13, std=0.31, min=0.0, max=1.0)
    )


def median_seconds(work: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
