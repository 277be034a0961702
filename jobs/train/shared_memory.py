"""Memory that the ranks of a node share: a file in memory that never has a name, so that nothing can remain of it.

The node's first rank makes the file and offers it to the other ranks, which open it through /proc. The kernel frees it
when the last of them has ended, however they end.
"""

import fcntl
import mmap
import os
import secrets
import threading
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.logs import log

PAGE = mmap.PAGESIZE  # bytes; each array begins at a multiple of them

_SHM = "/dev/shm"  # noqa: S108 (the file that is made there has no name)


class SharedMemory:
    """Zeroed memory, from which each rank takes the same arrays in the same order, and a lock."""

    def __init__(self, file: int, size: int) -> None:
        """Map an open file of `size` bytes, from which `create` or `join` made it."""
        self.file, self._map = file, mmap.mmap(file, size)
        self._end = 0
        self._token = self.array((1,), np.int64)
        self.lock = NodeLock(file)

    @classmethod
    def create(cls, size: int) -> Self:
        """Make memory for arrays of `size` bytes in all, in whole pages. Raises OSError if there is no room.

        All of it is reserved at once, at 3 GB/s: a process that wrote to a page for which there is no room would die.
        """
        file, size = _nameless_file(), size + PAGE
        try:
            os.posix_fallocate(file, 0, size)
            memory = cls(file, size)
        except OSError:
            os.close(file)
            raise
        memory._token[0] = secrets.randbits(63)
        return memory

    @property
    def offer(self) -> NDArray[Any]:
        """What `join` needs: the process and its file descriptor, and the memory's own number: int64 [3]."""
        return np.array([os.getpid(), self.file, self._token[0]])

    @classmethod
    def join(cls, offer: NDArray[Any], size: int) -> Self | None:
        """Return the memory that a process of this node offers; None if there is none of this offer and size here."""
        process, descriptor, token = offer.tolist()
        path, size = Path(f"/proc/{process}/fd/{descriptor}"), size + PAGE
        try:
            # If the process is on another node, this is what a process of that number has open on this one, if any.
            if path.stat().st_size != size:
                return None
            file = os.open(path, os.O_RDWR)
        except OSError:
            return None
        memory = cls(file, size)
        if memory._token[0] != token:
            os.close(file)
            return None
        return memory

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return the next part of the memory, which begins with a page, as an array."""
        begin, count = self._end, prod(shape)
        self._end += -(-count * np.dtype(dtype).itemsize // PAGE) * PAGE
        return np.frombuffer(self._map, dtype, count, begin).reshape(shape)


class NodeLock:
    """Excludes the other threads of this process and the processes that share a file in this node's memory.

    The kernel releases it when its holder dies.
    """

    def __init__(self, file: int) -> None:
        self._file, self._thread = file, threading.Lock()

    def __enter__(self) -> None:
        self._thread.acquire()  # the kernel's lock is the whole process's
        while True:
            try:
                return os.lockf(self._file, os.F_LOCK, 1)
            except InterruptedError:  # by a signal
                continue

    def __exit__(self, *_: object) -> None:
        os.lockf(self._file, os.F_ULOCK, 1)
        self._thread.release()


class Presence:
    """Shows which ranks still run. Each holds a lock on a byte of the file, which the kernel releases when it ends."""

    def __init__(self, file: int, rank: int) -> None:
        self._file = file
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(rank))

    def has_ended(self, rank: int) -> bool:
        """Return whether another rank, which once held its lock, has ended."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(rank))
        except OSError:  # it holds the lock
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(rank))
        return True


def _byte(rank: int) -> int:
    return 1 + rank  # `NodeLock` locks byte 0


def share_memory(
    size: int, wanted: bool, local_rank: int, local_size: int, gather: Callable[[NDArray[Any]], NDArray[Any]]
) -> SharedMemory | None:
    """Return memory for arrays of `size` bytes that this rank shares with others of its node; None if it has none.

    All ranks of the training call it. `wanted`: whether there is to be any, as the node's first rank sees it.
    `gather`: returns the values [n] of all ranks as one array [ranks · n].
    """
    own = None
    if wanted and local_rank == 0 and local_size > 1:
        try:
            own = SharedMemory.create(size)
        except OSError as error:
            log.debug("train: this node's ranks share no memory: %s", error)
    offers = gather(own.offer if own else np.zeros(3, np.int64)).reshape(-1, 3)
    if local_rank == 0 or local_size == 1:
        return own
    return next(filter(None, (SharedMemory.join(offer, size) for offer in offers if offer.any())), None)


def _nameless_file() -> int:
    """Return the descriptor of a new empty file in memory, which only this user's processes can open."""
    if hasattr(os, "memfd_create"):  # not of every Python: some are built for an older C library
        file = os.memfd_create("idxtrain")
        os.fchmod(file, 0o600)
        return file
    return os.open(_SHM, os.O_TMPFILE | os.O_RDWR, 0o600)
