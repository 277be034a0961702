"""The row cache: rows of many shards in one array, so that one pass over the bytes gathers any of them."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.dataset import Manifest, PixelType, Split
from jobs.errors import InputError
from jobs.memory import free_memory
from jobs.train.config import TrainConfig
from jobs.train.data.order import shard_starts
from jobs.train.data.reader import Rows
from jobs.train.shared_memory import PAGE, SharedMemory, share_memory

# Bytes. TensorFlow uses an array in place if it begins at a multiple of these (its EIGEN_MAX_ALIGN).
ALIGNMENT = 64

_ABSENT, _CLAIMED, _PRESENT = range(3)  # states of a shard
_POLL_SECONDS = 0.005
_SPLITS: tuple[Split, ...] = ("train", "validation")  # those that a training keeps
_ARRAYS = 4  # of a cache: images, labels, indices, states


class RowCache:
    """The rows of some shards. Evicted shards make room for others; the memory never shrinks."""

    def __init__(
        self,
        shard_rows: Sequence[int],
        capacity: int | None,
        values: int,
        pixels: PixelType = "float32",
        memory: SharedMemory | None = None,
    ) -> None:
        """Allocate the cache; the system gives private memory page by page, as rows are first written.

        `shard_rows`: the rows of every shard of the split. `capacity`: the most shards at a time; None: all of them,
        and none may be evicted. `values`: per image. `pixels`: their type. `memory`: where ranks share a cache of all
        shards. Raises InputError if there is too little memory.
        """
        slot = max(shard_rows, default=0)  # rows that any shard fits in
        rows = sum(shard_rows) if capacity is None else capacity * slot
        # Each shard's first row in the arrays. With all shards, each has its own place, the same in every rank.
        self._starts = shard_starts(shard_rows)[:-1] if capacity is None else np.zeros(len(shard_rows), np.int64)
        self._has_places = capacity is None
        self._free = [number * slot for number in reversed(range(capacity or 0))]  # first rows of free slots
        self._lock: AbstractContextManager[Any] = memory.lock if memory else threading.Lock()
        allocate: Callable[..., NDArray[Any]] = memory.array if memory else np.empty
        try:
            self._images = allocate((rows, values), pixels)
            self._labels, self._indices = allocate((rows,), np.int32), allocate((rows,), np.int64)
        except MemoryError as error:
            needed = rows * row_bytes(values * np.dtype(pixels).itemsize)
            raise InputError(
                f"train.cache: found too little memory, expected {needed / 1e9:.1f} GB for {rows:,} rows; fix: "
                "set train.cache=never; if it is set, lower train.shuffle_shards"
            ) from error
        self._states = memory.array((len(shard_rows),), np.uint8) if memory else np.zeros(len(shard_rows), np.uint8)

    @property
    def nbytes(self) -> int:
        """The size of the cache in bytes."""
        return self._images.nbytes + self._labels.nbytes + self._indices.nbytes

    def __contains__(self, shard: int) -> bool:
        return bool(self._states[shard] == _PRESENT)

    def insert(self, shard: int, rows: Rows) -> None:
        """Copy a shard's rows into the cache."""
        if not self._has_places:
            self._starts[shard] = self._free.pop()
        place = slice(self._starts[shard], self._starts[shard] + len(rows.labels))
        self._images[place] = rows.images
        self._labels[place] = rows.labels
        self._indices[place] = rows.indices
        self._states[shard] = _PRESENT  # after the rows: x86-64 keeps the order for other processes

    def fill(self, shard: int, read: Callable[[], Rows]) -> None:
        """Read a shard into a cache of all shards, unless it is there or another thread or rank is reading it.

        Whoever begins to read a shard waits for nothing until it is there, so that no ranks wait for each other.
        """
        with self._lock:
            if self._states[shard] != _ABSENT:
                return
            self._states[shard] = _CLAIMED
        self.insert(shard, read())

    def wait_for(self, shard: int) -> None:
        """Wait until a shard that is being read is there. If its rank fails, the launcher ends this one."""
        while shard not in self:
            time.sleep(_POLL_SECONDS)

    def evict(self, shards: Iterable[int]) -> None:
        """Make room where these cached shards are."""
        for shard in shards:
            self._free.append(int(self._starts[shard]))
            self._states[shard] = _ABSENT

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


def keeps_all_rows(config: TrainConfig, manifest: Manifest, copies: int) -> bool:
    """Return whether a node's ranks may keep every row that they read, in time all rows, in `copies` copies in all."""
    if config.cache != "auto":
        return config.cache == "always"
    return copies * _rows_bytes(manifest) < config.cache_share * free_memory()


def shared_cache(
    config: TrainConfig,
    manifest: Manifest,
    local_rank: int,
    local_size: int,
    gather: Callable[[NDArray[Any]], NDArray[Any]],
) -> SharedMemory | None:
    """Return memory for all rows of both splits, which the ranks of a node share; None if they don't.

    All ranks of the training call it. See `share_memory`.
    """
    rows = _rows_bytes(manifest)
    states = sum(len(manifest.splits[split].shards) for split in _SPLITS)
    wanted = keeps_all_rows(config, manifest, copies=1) and rows < free_memory()
    return share_memory(rows + states + len(_SPLITS) * _ARRAYS * PAGE, wanted, local_rank, local_size, gather)


def _rows_bytes(manifest: Manifest) -> int:
    return sum(manifest.splits[split].rows for split in _SPLITS) * row_bytes(manifest.image_bytes)


def row_bytes(image_bytes: int) -> int:
    """Return the bytes of a cached row: its image, its int32 label and its int64 index."""
    return image_bytes + 4 + 8


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialized array that begins at a multiple of ALIGNMENT bytes."""
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
