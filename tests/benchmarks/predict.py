"""python -m tests.benchmarks.predict WORK RUN [ROUNDS]: speed and memory of `idxtrain predict` and the bare model's.

WORK: a work folder with MNIST's archives, RUN: a run in it. `predict` writes a row for each of 70,000 images and of 1.4
million (MNIST once and 20 times, as a plain IDX file) to Parquet. The bare model is the same graph on an array that is
ready in memory, in batches of the same size. Each is a process of its own, in turn. Prints one table: medians over the
rounds. CPU seconds hardly depend on what else the machine does.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.predict.classifier import Classifier
from jobs.prepare import idx
from jobs.progress import megabytes
from pipelines.model_choice import chosen_model
from tests.benchmarks.timing import Done, run

BATCH = 500
TIMES = 20
PASSES = 6  # of the bare model: long enough for a busy machine's ups and downs
ARCHIVES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")


def main(work: Path, run_id: str, rounds: int) -> None:
    """Print the table."""
    results: dict[str, list[Timed]] = {"once": [], "many": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = {"once": (folder / "once.idx3", 1), "many": (folder / "many.idx3", TIMES)}
        images = np.concatenate([idx.read(next((work / "archives/mnist").glob(f"{each}*"))) for each in ARCHIVES])
        for path, times in archives.values():
            header = idx.Header(np.dtype("u1"), (times * len(images), *images.shape[1:]))
            idx.write_blocks(path, header, [images] * times)
        this = (sys.executable, "-m", "tests.benchmarks.predict", "--bare")
        for _ in range(rounds):
            for contender, (path, _) in archives.items():
                arguments = ("predict", path, "--work", work, "--run-id", run_id, "--out", folder / "rows.parquet")
                results[contender].append(timed(Path(sys.executable).with_name("idxtrain"), *arguments))
            results["bare"].append(timed(*this, work, run_id, archives["once"][0]))
    show(results, len(images))


@dataclass(frozen=True)
class Timed:
    """A finished process, and the seconds of all its threads."""

    done: Done
    cpu: float


def timed(*command: object) -> Timed:
    """Run a process to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run([str(each) for each in command], watch_memory=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timed(done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(results: dict[str, list[Timed]], once: int) -> None:
    """Print medians. The speed is that of the 19 × 70,000 images by which the two commands differ: without start-up."""
    more = (TIMES - 1) * once
    pairs = list(zip(results["once"], results["many"], strict=True))
    speeds = [more / (many.done.seconds - one.done.seconds) for one, many in pairs]
    cpu = [(many.cpu - one.cpu) / more for one, many in pairs]
    bare_speeds = [each.done.figures["images_per_second"] for each in results["bare"]]
    bare_cpu = [each.done.figures["cpu_per_image"] for each in results["bare"]]
    peaks = {name: statistics.median(each.done.peak_bytes for each in results[name]) for name in ("once", "many")}
    seconds = {name: statistics.median(each.done.seconds for each in results[name]) for name in ("once", "many")}
    print("| | images | seconds | images/s | CPU µs per image | memory |\n|---|---:|---:|---:|---:|---:|")
    print(f"| `predict` | {once:,} | {seconds['once']:.0f} | | | {megabytes(int(peaks['once']))} |")
    figures = f"{statistics.median(speeds):,.0f} | {1e6 * statistics.median(cpu):.1f}"
    print(f"| `predict` | {TIMES * once:,} | {seconds['many']:.0f} | {figures} | {megabytes(int(peaks['many']))} |")
    figures = f"{statistics.median(bare_speeds):,.0f} | {1e6 * statistics.median(bare_cpu):.1f}"
    print(f"| the bare model | {PASSES * once:,} | | {figures} | |")
    print(f"\nspeed ÷ the bare model's: {listed([a / b for a, b in zip(speeds, bare_speeds, strict=True)])}")
    print(f"CPU time ÷ the bare model's: {listed([a / b for a, b in zip(cpu, bare_cpu, strict=True)])}")
    print(f"memory × {peaks['many'] / peaks['once']:.2f}")


def listed(values: Sequence[float]) -> str:
    """Return `median (lowest to highest)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def bare(work: Path, run_id: str, archive: Path) -> None:
    """Print the images/s of the model alone, on images that are ready."""
    with chosen_model(run_id, work=work) as file:
        classifier = Classifier(file, Path(os.devnull))
    images = classifier.normalized(idx.read(archive)[..., None])
    classifier.probabilities(images[:BATCH])
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(PASSES):
        for start in range(0, len(images), BATCH):
            classifier.probabilities(images[start : start + BATCH])
    count = PASSES * len(images)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    print(json.dumps({"images_per_second": count / seconds, "cpu_per_image": cpu_seconds / count}))


if __name__ == "__main__":
    if sys.argv[1] == "--bare":
        bare(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
