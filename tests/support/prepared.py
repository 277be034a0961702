"""A prepared dataset and the ways to one, for the tests of the prepare stage."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.archive import Archive
from jobs.dataset import FORMAT, Manifest, Split, read_manifest
from jobs.files import write_json
from jobs.prepare import idx
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.records import FetchOutputs
from jobs.run_dir import RunDir, Work
from jobs.stage import stage_key, write_record

Archives = dict[str, Archive]

# No master listens there, so starting Spark is an error: any other error was found before that.
NO_SPARK = SparkConfig(master="spark://127.0.0.1:1")

# For each data set: the arguments of its archives, and the options.
VARIANTS: dict[str, tuple[dict[str, Any], PrepareConfig]] = {
    "uint8-gz": ({}, PrepareConfig(rows_per_shard=64, validation_from="first")),
    "uint8-bytes": ({}, PrepareConfig(rows_per_shard=64, validation_from="first", pixels="uint8")),
    "int16": ({"dtype": "int16", "gz": False}, PrepareConfig(rows_per_shard=600, validation_from="spread")),
    "float32-rgb": ({"dtype": "float32", "shape": (6, 8, 3)}, PrepareConfig(rows_per_shard=250, validation_rows=0)),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A dataset and what it was made from. `log`: the stderr of the process that made it."""

    config: PrepareConfig
    archives: Archives
    work: Work
    directory: Path
    log: str

    @property
    def manifest(self) -> Manifest:
        """The manifest, as later stages read it."""
        return read_manifest(self.directory)

    def stored(self, split: Split) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the split's images, labels and row numbers from the archives."""
        images, labels = self.archive_arrays("test" if split == "test" else "train")
        total, held_out = len(images), len(images) // 12
        if self.config.validation_rows is not None:
            held_out = self.config.validation_rows
        rows = np.arange(total)
        if split != "test":
            is_held_out = np.isin(rows, [i * total // held_out for i in range(held_out)])  # spread
            if self.config.validation_from == "first":
                is_held_out = rows < held_out
            rows = rows[is_held_out if split == "validation" else ~is_held_out]
        return images[rows], labels[rows], rows

    def archive_arrays(self, which: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return images and labels of the "train" or "test" archives."""
        by_name = {role: archive.path for role, archive in self.archives.items()}
        return idx.read(by_name[f"{which}_images"]), idx.read(by_name[f"{which}_labels"])


def new_run(
    work: Path, archives: Mapping[str, Archive], config: PrepareConfig, run_id: str = "r1", **spark: Any
) -> RunDir:
    """Return a run whose fetch stage has finished."""
    run = RunDir(work / "runs" / run_id)
    run.path.mkdir(parents=True)
    write_json(run.config_file, {"fetch": {}, "prepare": config.model_dump(), "spark": spark})
    outputs = FetchOutputs(archives=archives).model_dump(mode="json")
    write_record(run, "fetch", stage_key(run, "fetch"), outputs, [])
    return run


def start(run: RunDir, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.prepare", str(run.path)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def parquet_bytes(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.glob("*/*.parquet"))}


def bare_manifest(shape: tuple[int, int, int], classes: int, train: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest of a dataset without rows, except for a train split if one is given."""
    empty = {"rows": 0, "label_counts": (0,) * classes, "shards": ()}
    return Manifest.model_validate(
        {
            "format": FORMAT,
            "dataset_id": "0" * 16,
            "shape": shape,
            "classes": classes,
            "labels": list(range(classes)),
            "class_names": list(map(str, range(classes))),
            "orientation": "none",
            "splits": {"train": train or empty, "validation": empty, "test": empty},
            "pixels": {"mean": 0.0, "std": 1.0, "min": 0.0, "max": 1.0},
            "normalization": {"rule": "type-range", "offset": 0.0, "scale": 1.0},
            "duplicates": {"test_images_in_train": 0, "examples": ()},
            "sources": {},
            "options": {},
            "versions": {},
        }
    )
