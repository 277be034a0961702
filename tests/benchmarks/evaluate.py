"""python -m tests.benchmarks.evaluate RUN [TIMES…]: time and peak memory of `evaluate`, by number of test images.

RUN: a finished run's folder; it stays as it is. TIMES: how often the test split is repeated, by default 1 and 20. With
`--ranks N`, on N ranks. Memory is the peak of the largest process, in MB (10⁶ bytes).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import launch
from jobs.dataset import MANIFEST, Manifest, Shard, read_manifest, shard_path
from jobs.files import sealed, sha256_file, write_json
from jobs.run_dir import RunDir
from jobs.stage import dataset_of


def main(run: RunDir, times: list[int], ranks: int) -> None:
    """Print a line for each number of images."""
    print("images ranks seconds MB accuracy")
    for number in times:
        with tempfile.TemporaryDirectory() as folder:
            copy = repeated(run, Path(folder), number)
            code = f"from tests.benchmarks.evaluate import measure; measure({str(copy.path)!r}, {ranks})"
            # In a process of its own: what is measured is the peak over all of a process's children so far.
            subprocess.run([sys.executable, "-c", code], check=True)


def measure(path: str, ranks: int) -> None:
    """Evaluate a run; print its images, seconds and peak memory."""
    run = RunDir(Path(path))
    begin = time.perf_counter()
    how = launch("evaluate", run.path, ranks, LaunchConfig())
    subprocess.run(how.argv, check=True, capture_output=True)
    seconds, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    test = json.loads(run.metrics_file.read_text())["test"]
    print(f"{test['count']:,} {ranks} {seconds:.1f} {1024 * peak / 1e6:.0f} {test['accuracy']:.6f}", flush=True)


def repeated(run: RunDir, folder: Path, times: int) -> RunDir:
    """Return a copy of a run whose test split is repeated, each image with another index."""
    source = dataset_of(run)
    manifest = read_manifest(source)
    dataset = folder / "datasets" / manifest.dataset_id
    shutil.copytree(source, dataset, ignore=shutil.ignore_patterns("train", "test"))
    (dataset / "test").mkdir()
    write_json(dataset / MANIFEST, sealed(_with_test(manifest, source, dataset, times).model_dump(mode="json")))
    copy = RunDir(folder / "runs" / run.run_id)
    copy.path.mkdir(parents=True)
    for name in ("config.json", "model.keras"):
        shutil.copy(run.path / name, copy.path / name)
    for stage in ("fetch", "prepare", "train"):
        record = json.loads(run.record_file(stage).read_text())
        if stage == "prepare":
            record["outputs"]["dataset"] = str(dataset)
        record.pop("sha256")
        copy.record_file(stage).parent.mkdir(exist_ok=True)
        write_json(copy.record_file(stage), sealed(record))
    return copy


def _with_test(manifest: Manifest, source: Path, dataset: Path, times: int) -> Manifest:
    test = manifest.splits["test"]
    shards: list[Shard] = []
    for number in range(times):
        for shard in test.shards:
            table = pq.read_table(source / shard.path)
            indices = table["index"].to_numpy() + np.int64(number) * test.rows
            path = dataset / shard_path("test", len(shards))
            column = table.column_names.index("index")
            pq.write_table(table.set_column(column, "index", pa.array(indices)), path, compression="zstd")
            shards.append(
                Shard(
                    path=shard_path("test", len(shards)),
                    rows=shard.rows,
                    first_index=int(indices[0]),
                    bytes=path.stat().st_size,
                    sha256=sha256_file(path),
                )
            )
    counts = tuple(count * times for count in test.label_counts)
    larger = test.model_copy(update={"rows": test.rows * times, "label_counts": counts, "shards": tuple(shards)})
    return manifest.model_copy(update={"splits": {**manifest.splits, "test": larger}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evaluate")
    parser.add_argument("run", type=Path)
    parser.add_argument("times", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--ranks", type=int, default=1)
    given = parser.parse_args()
    main(RunDir(given.run.resolve()), given.times, given.ranks)
