"""Sums of gradients over the ranks of one machine, in memory that they share, in place of Horovod's messages.

Horovod sends them through the loopback device, where each byte is copied several times, by the cores that also compute.
Here each rank writes its gradients into the memory, adds up its share of everybody's, and takes all sums.
"""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.train.data.row_cache import ALIGNMENT, aligned_empty
from jobs.train.shared_memory import PAGE, Presence, SharedMemory, share_memory

PEER_LOST = "a rank on this machine has ended"

_POLL_SECONDS = 50e-6  # a step takes milliseconds
_PATIENCE_SECONDS = 1.0  # after which a rank that is waited for is looked at


class SharedSum:
    """Sums arrays of the same shapes again and again. All ranks make one of the same memory, and call it in turn."""

    def __init__(
        self, memory: SharedMemory, rank: int, ranks: int, shapes: Sequence[tuple[int, ...]], dtype: DTypeLike
    ):
        """`memory`: of `needed_bytes`. `shapes`: of the arrays, which are of `dtype`."""
        self._rank, self._shapes = rank, shapes
        self._starts = _starts(shapes, dtype)
        values = self._starts[-1]
        self._given = [memory.array((values,), dtype) for _ in range(ranks)]
        self._sums = memory.array((values,), dtype)
        self._share = slice(values * rank // ranks, values * (rank + 1) // ranks)
        self._arrivals = memory.array((ranks,), np.int64)  # how often each rank came to a barrier
        self._presence = Presence(memory.file, rank)

    def __call__(self, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the sum over all ranks of each array, added in the order of the ranks: the same bits on each.

        Raises RuntimeError if another rank has ended.
        """
        own = self._given[self._rank]
        for start, array in zip(self._starts[:-1], arrays, strict=True):
            own[start : start + array.size] = array.reshape(-1)
        self._wait_for_all()
        sums = self._sums[self._share]
        np.add(self._given[0][self._share], self._given[1][self._share], out=sums)
        for given in self._given[2:]:
            sums += given[self._share]
        self._wait_for_all()
        # A copy: TensorFlow may compute in place, while other ranks still read the sums.
        taken = aligned_empty(self._sums.shape, self._sums.dtype)
        taken[:] = self._sums
        return [
            taken[start : start + prod(shape)].reshape(shape)
            for start, shape in zip(self._starts[:-1], self._shapes, strict=True)
        ]

    def _wait_for_all(self) -> None:
        """Return when every rank has come here as often as this one."""
        self._arrivals[self._rank] += 1
        for rank in range(len(self._arrivals)):
            patient_until = time.monotonic() + _PATIENCE_SECONDS
            while self._arrivals[rank] < self._arrivals[self._rank]:
                time.sleep(_POLL_SECONDS)
                if time.monotonic() > patient_until:
                    if self._presence.has_ended(rank) and self._arrivals[rank] < self._arrivals[self._rank]:
                        raise RuntimeError(f"{PEER_LOST}: rank {rank}")
                    patient_until = time.monotonic() + _PATIENCE_SECONDS


def shared_sum(
    rank: int,
    ranks: int,
    shapes: Sequence[tuple[int, ...]],
    dtype: DTypeLike,
    gather: Callable[[NDArray[Any]], NDArray[Any]],
) -> SharedSum | None:
    """Return the sum over all ranks, which are on one machine; None if they cannot share memory.

    All ranks call it. `shapes`: of the arrays to add up, which are of `dtype`. `gather`: returns the values [n] of all
    ranks as one array [ranks · n].
    """
    values = _starts(shapes, dtype)[-1]
    arrays = ranks + 2  # each rank's values, the sums and the arrivals
    size = (ranks + 1) * values * np.dtype(dtype).itemsize + 8 * ranks + arrays * PAGE
    memory = share_memory(size, True, rank, ranks, gather)
    if not gather(np.array([memory is not None])).all() or memory is None:
        return None
    summed = SharedSum(memory, rank, ranks, shapes, dtype)
    gather(np.zeros(1, np.int32))  # from here on, every rank's presence can be seen
    return summed


def _starts(shapes: Sequence[tuple[int, ...]], dtype: DTypeLike) -> list[int]:
    """Return where each array begins among the values of all, and behind the last: each at an aligned address."""
    per_line = ALIGNMENT // np.dtype(dtype).itemsize
    return list(accumulate((-(-prod(shape) // per_line) * per_line for shape in shapes), initial=0))
