"""Shards into arrays, through Petastorm. The only petastorm import.

Petastorm is given a list of file URLs, one row group each, and reads ahead in its threads. It needs none of its own
metadata, which is a pickle, for plain Parquet. Its thread pool (0.13.1) has two races that this module makes good (of
60 reads of up to 40 tiny files with 2 threads, 13 lost row groups and 31 swapped some):

- It ends early where its consumer asks just as the last row groups are handed out: `all_workers_done` is judged first,
  `completed` after it, and what is handed out in between is never waited for. So what is missing is read again.
- It skips a thread that has nothing to do at the moment, and so gets row groups out of order. So a row group is known
  by the archive row it begins with, never by its turn.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read_shards(
    directory: Path, manifest: Manifest, shards: Sequence[Shard], threads: int
) -> Iterator[tuple[int, Rows]]:
    """Yield each of the given shards once, with its place in the list, about in the order of the list.

    Raises InputError where a file is not what the manifest says.
    """
    missing = {shard.first_index: place for place, shard in enumerate(shards)}
    while missing:
        asked = [shards[place] for place in missing.values()]
        for batch in _read(directory, asked, threads):
            place = missing.pop(int(batch.index[0]), None)
            if place is not None:
                yield place, _rows(directory / shards[place].path, shards[place], manifest, batch)
        if len(missing) == len(asked):
            raise InputError(
                f"{directory / asked[0].path}: found no row group that begins with archive row "
                f"{asked[0].first_index}, expected one; remove {directory} and prepare it again"
            )


def _read(directory: Path, shards: Sequence[Shard], threads: int) -> Iterator[Any]:
    """Yield Petastorm's batches of these files: tuples of NumPy arrays, one a row group, as they come."""
    # Petastorm's import takes over a second: a worker that reads from its cache alone does without.
    from petastorm import make_batch_reader

    # It uses the legacy interface of the pyarrow it is pinned with, and pyarrow says so twenty times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")
    reader = make_batch_reader(
        [(directory / shard.path).resolve().as_uri() for shard in shards],
        schema_fields=["image", "label", "index"],
        reader_pool_type="thread",
        workers_count=min(threads, len(shards)),
        results_queue_size=max(2, threads),
        shuffle_row_groups=False,
        num_epochs=1,
    )
    try:
        yield from reader
    finally:
        reader.stop()
        reader.join()


def _rows(path: Path, shard: Shard, manifest: Manifest, batch: Any) -> Rows:
    images, labels, indices = (np.asarray(getattr(batch, name)) for name in ("image", "label", "index"))
    expected = (shard.rows, manifest.values_per_image)
    if images.shape != expected or images.dtype != np.float32 or len(labels) != shard.rows:
        raise InputError(
            f"{path}: found images {images.dtype} {images.shape}, expected float32 {expected}; prepare again"
        )
    return Rows(images, labels.astype(np.int32, copy=False), indices.astype(np.int64, copy=False))
