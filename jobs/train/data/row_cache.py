"""Rows of shards held in one array, so that any of them are gathered in one pass over their bytes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.memory import free_memory
from jobs.train.config import TrainConfig
from jobs.train.data.reader import Rows

ALIGNMENT = 64  # bytes: TensorFlow takes an array as it lies, if it begins at a multiple of these (its EIGEN_MAX_ALIGN)


class HeldRows:
    """Some shards' rows, for as long as they are needed. Its memory is as much as was ever held at once, and reused."""

    def __init__(self, shard_rows: Sequence[int], at_once: int | None, values: int) -> None:
        """`shard_rows`: of all shards of the split. `at_once`: the most shards held; None: all, and none is dropped.

        Memory is taken page by page, when rows are first put there. Raises InputError where the system refuses it.
        """
        self._slot = None if at_once is None else max(shard_rows, default=0)  # None: each shard takes its own size
        rows = sum(shard_rows) if self._slot is None else (at_once or 0) * self._slot
        self._starts = np.full(len(shard_rows), -1)  # where a shard's rows begin; -1: not held
        self._free: list[int] = []  # where dropped shards began
        self._end = 0  # behind the last row that was ever used
        try:
            self._images = np.empty((rows, values), np.float32)
            self._labels, self._indices = np.empty(rows, np.int32), np.empty(rows, np.int64)
        except MemoryError as error:
            raise InputError(
                f"train.cache: found no memory for {rows:,} rows, {rows * row_bytes(values) / 1e9:.1f} GB; set it to "
                "never, and lower train.shuffle_shards if it is"
            ) from error

    @property
    def nbytes(self) -> int:
        """Memory of all rows there is room for, in bytes."""
        return self._images.nbytes + self._labels.nbytes + self._indices.nbytes

    def __contains__(self, shard: int) -> bool:
        return bool(self._starts[shard] >= 0)

    def put(self, shard: int, rows: Rows) -> None:
        """Hold a copy of a shard's rows."""
        count = len(rows.labels)
        if self._free:
            start = self._free.pop()
        else:
            start = self._end
            self._end += count if self._slot is None else self._slot
        self._images[start : start + count] = rows.images
        self._labels[start : start + count] = rows.labels
        self._indices[start : start + count] = rows.indices
        self._starts[shard] = start

    def drop(self, shard: int) -> None:
        """Hold a shard's rows no longer."""
        self._free.append(int(self._starts[shard]))
        self._starts[shard] = -1

    def take(self, shards: NDArray[Any], rows: NDArray[Any]) -> Rows:
        """Return a new array of the rows `rows` of held shards `shards`, int64 [n] each, in that order."""
        places = self._starts[shards] + rows
        images = aligned_empty((len(places), self._images.shape[1]), np.float32)
        # clip: all places are inside, and with the default, raise, NumPy would write to another array first.
        np.take(self._images, places, axis=0, out=images, mode="clip")
        return Rows(images, self._labels[places], self._indices[places])


def joined(first: NDArray[Any], one: Rows, other: Rows) -> Rows:
    """Return rows of two parts in one order: `first`, bool [rows], tells which rows are of `one`."""
    if first.all():
        return one
    images = aligned_empty((len(first), one.images.shape[1]), np.float32)
    labels, indices = np.empty(len(first), np.int32), np.empty(len(first), np.int64)
    for part, rows in ((first, one), (~first, other)):
        images[part], labels[part], indices[part] = rows.images, rows.labels, rows.indices
    return Rows(images, labels, indices)


def keep_in_memory(config: TrainConfig, manifest: Manifest, local_size: int) -> bool:
    """Tell whether each of the `local_size` ranks of a node may hold all rows it comes across: in time, every row."""
    if config.cache != "auto":
        return config.cache == "always"
    rows = manifest.splits["train"].rows + manifest.splits["validation"].rows
    wanted = rows * row_bytes(manifest.values_per_image) * local_size
    return wanted < config.cache_share * free_memory()


def row_bytes(values: int) -> int:
    """Return what a held row takes: its float32 image, its int32 label and its int64 index."""
    return 4 * values + 4 + 8


def aligned_empty(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return an uninitialized array that begins at a multiple of ALIGNMENT."""
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
