"""Shards into arrays, through Petastorm, in the order they are needed. The only petastorm import.

Petastorm is given a list of file URLs, one row group each, and told not to shuffle: it then reads ahead in its threads
and hands the row groups over in that order. It needs none of its own metadata, which is a pickle, for plain Parquet.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.dataset import Manifest, Shard
from jobs.errors import InputError


@dataclass(frozen=True)
class Rows:
    """One shard's columns: images float32 [rows, height·width·channels], labels int32 [rows], indices int64 [rows]."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the images, in bytes."""
        return int(self.images.nbytes)


def read_shards(directory: Path, manifest: Manifest, shards: Sequence[Shard], threads: int) -> Iterator[Rows]:
    """Yield the given shards, in the given order. Raises InputError where a file is not what the manifest says."""
    if not shards:
        return
    # Petastorm's import takes over a second: a worker that reads from its cache alone does without.
    from petastorm import make_batch_reader

    # It uses the legacy interface of the pyarrow it is pinned with, and pyarrow says so twenty times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")

    urls = [(directory / shard.path).resolve().as_uri() for shard in shards]
    reader = make_batch_reader(
        urls,
        schema_fields=["image", "label", "index"],
        reader_pool_type="thread",
        # More threads than shards would only wait; one thread keeps the order by itself.
        workers_count=min(threads, len(shards)),
        results_queue_size=max(2, threads),
        shuffle_row_groups=False,
        num_epochs=1,
    )
    read = 0
    try:
        for shard, batch in zip(shards, reader, strict=False):
            yield _rows(directory / shard.path, shard, manifest, batch)
            read += 1
    finally:
        reader.stop()
        reader.join()
    if read < len(shards):
        raise InputError(f"{directory / shards[read].path}: found no row group, expected one; prepare again")


def _rows(path: Path, shard: Shard, manifest: Manifest, batch: object) -> Rows:
    images, labels, indices = (np.asarray(getattr(batch, name)) for name in ("image", "label", "index"))
    expected = (shard.rows, manifest.values_per_image)
    if images.shape != expected or images.dtype != np.float32 or len(labels) != shard.rows:
        raise InputError(
            f"{path}: found images {images.dtype} {images.shape}, expected float32 {expected}; prepare again"
        )
    return Rows(images, labels.astype(np.int32, copy=False), indices.astype(np.int64, copy=False))
