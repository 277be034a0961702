"""The row cache: rows of many shards in one array, so that one pass over the bytes gathers any of them."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.dataset import Manifest, PixelType
from jobs.errors import InputError
from jobs.memory import free_memory
from jobs.train.config import TrainConfig
from jobs.train.data.reader import Rows

# Bytes. TensorFlow uses an array in place if it begins at a multiple of these (its EIGEN_MAX_ALIGN).
ALIGNMENT = 64


class RowCache:
    """The rows of some shards. Evicted shards make room for others; the memory never shrinks."""

    def __init__(
        self, shard_rows: Sequence[int], capacity: int | None, values: int, pixels: PixelType = "float32"
    ) -> None:
        """Allocate the cache; the system gives memory page by page, as rows are first written.

        `shard_rows`: the rows of every shard of the split. `capacity`: the most shards at a time; None: all of them,
        and none may be evicted. `values`: per image. `pixels`: their type. Raises InputError if there is too little
        memory.
        """
        # Rows of a slot, which any shard fits in; None: each shard takes its own size.
        self._slot = None if capacity is None else max(shard_rows, default=0)
        rows = sum(shard_rows) if self._slot is None else (capacity or 0) * self._slot
        self._starts = np.full(len(shard_rows), -1)  # each shard's first row in the arrays; -1: not cached
        self._free: list[int] = []  # first rows of evicted shards
        self._end = 0  # behind the last row ever used
        try:
            self._images = np.empty((rows, values), pixels)
            self._labels, self._indices = np.empty(rows, np.int32), np.empty(rows, np.int64)
        except MemoryError as error:
            needed = rows * row_bytes(values * np.dtype(pixels).itemsize)
            raise InputError(
                f"train.cache: found too little memory, expected {needed / 1e9:.1f} GB for {rows:,} rows; fix: "
                "set train.cache=never; if it is set, lower train.shuffle_shards"
            ) from error

    @property
    def nbytes(self) -> int:
        """The size of the cache in bytes."""
        return self._images.nbytes + self._labels.nbytes + self._indices.nbytes

    def __contains__(self, shard: int) -> bool:
        return bool(self._starts[shard] >= 0)

    def insert(self, shard: int, rows: Rows) -> None:
        """Copy a shard's rows into the cache."""
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

    def evict(self, shards: Iterable[int]) -> None:
        """Make room where these cached shards are."""
        for shard in shards:
            self._free.append(int(self._starts[shard]))
            self._starts[shard] = -1

    def gather(self, shards: NDArray[Any], rows: NDArray[Any]) -> Rows:
        """Return a copy of the rows `rows` of the cached shards `shards`, int64 [n] each, in that order."""
        positions = self._starts[shards] + rows
        images = aligned_empty((len(positions), self._images.shape[1]), self._images.dtype)
        # With NumPy's default, mode="raise", take would write to a buffer first. All positions are inside.
        np.take(self._images, positions, axis=0, out=images, mode="clip")
        return Rows(images, self._labels[positions], self._indices[positions])


def merge_rows(mask: NDArray[Any], chosen: Rows, others: Rows) -> Rows:
    """Return rows in one order: where `mask`, bool [n], is true, the next of `chosen`, else the next of `others`."""
    if not mask.any():
        return others
    if mask.all():
        return chosen
    images = aligned_empty((len(mask), chosen.images.shape[1]), chosen.images.dtype)
    labels, indices = np.empty(len(mask), np.int32), np.empty(len(mask), np.int64)
    for where, rows in ((mask, chosen), (~mask, others)):
        images[where], labels[where], indices[where] = rows.images, rows.labels, rows.indices
    return Rows(images, labels, indices)


def keeps_all_rows(config: TrainConfig, manifest: Manifest, local_size: int) -> bool:
    """Return whether each of a node's `local_size` ranks may keep every row it reads: in time, all rows."""
    if config.cache != "auto":
        return config.cache == "always"
    rows = manifest.splits["train"].rows + manifest.splits["validation"].rows
    needed = rows * row_bytes(manifest.image_bytes) * local_size
    return needed < config.cache_share * free_memory()


def row_bytes(image_bytes: int) -> int:
    """Return the bytes of a cached row: its image, its int32 label and its int64 index."""
    return image_bytes + 4 + 8


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialized array that begins at a multiple of ALIGNMENT bytes."""
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
