"""python -m tests.benchmarks.serving WORK RUN [SECONDS]: requests per second and latencies of `idxtrain serve`.

Client and server share the machine. For each kind of request: the highest rate is that of 16 clients who each send the
next request when they have an answer (4 for batches); then requests are sent at fixed times, at half of that rate, and
each latency counts from the time at which the request was due. Also printed: the bare model, called in a loop.
"""

import asyncio
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.dataset import read_manifest
from jobs.predict.classifier import Classifier
from jobs.prepare import idx
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from pipelines.model_choice import chosen_model
from tests.support.serving import Serving, as_fast_as_possible, at_a_rate, post

CLIENTS, BATCH_CLIENTS = 16, 4
IMAGES = 256  # different ones


def main(work: Path, run_id: str, seconds: float) -> None:
    """Print the table."""
    run = RunDir(Work(work).runs / run_id)
    manifest = read_manifest(dataset_of(run))
    stored = np.random.default_rng(0).integers(0, 256, (IMAGES, *manifest.shape), np.uint8)
    kinds = {
        "1 image, raw": ([post(image.tobytes()) for image in stored], 1, CLIENTS),
        "1 image, PNG": ([post(png(image), "image/png") for image in stored], 1, CLIENTS),
        "32 images, raw": ([post(stored[:32].tobytes())], 32, BATCH_CLIENTS),
        "256 images, IDX": ([post(archive(stored), "application/x-idx")], IMAGES, BATCH_CLIENTS),
    }
    print("request          requests/s  images/s   p50     p99      at half the rate: p50   p99")
    with tempfile.TemporaryDirectory() as folder, Serving(Path(folder), run_id, "--work", work) as server:
        server.ready()
        for name, (requests, images, clients) in kinds.items():
            asyncio.run(as_fast_as_possible(server.port, requests, clients, 1))
            full = asyncio.run(as_fast_as_possible(server.port, requests, clients, seconds))
            rate = len(full.seconds) / seconds
            half = asyncio.run(at_a_rate(server.port, requests, rate / 2, seconds))
            faults = [status for status in (*full.statuses, *half.statuses) if status != 200]
            faults_of_connections = [*full.errors, *half.errors]
            assert [*faults, *faults_of_connections] == []
            latencies = [1000 * answers.percentile(p) for answers in (full, half) for p in (0.5, 0.99)]
            print(
                f"{name:16} {rate:10,.0f}  {rate * images:8,.0f}  {latencies[0]:5.1f} ms {latencies[1]:5.1f} ms"
                f"                 {latencies[2]:5.1f} ms {latencies[3]:5.1f} ms",
                flush=True,
            )
    bare(work, run_id, stored)


def png(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "PNG")
    return file.getvalue()


def archive(images: NDArray[Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images"
        idx.write(path, images)
        return path.read_bytes()


def bare(work: Path, run_id: str, stored: NDArray[Any]) -> None:
    with chosen_model(run_id, work=work) as file:
        classifier = Classifier(file, Path(os.devnull))
    images = classifier.normalized(stored)
    for size in (1, 64):
        classifier.probabilities(images[:size])
        begin, calls = time.perf_counter(), 0
        while time.perf_counter() < begin + 2:
            classifier.probabilities(images[:size])
            calls += 1
        print(f"the bare model, batches of {size}: {calls * size / (time.perf_counter() - begin):,.0f} images/s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 10)
