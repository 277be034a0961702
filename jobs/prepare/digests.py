"""Digests of images: 16 bytes each, equal for equal stored pixels, and for no others."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.files import naming_full_disk
from jobs.prepare.mapped import mapped

DIGEST_BYTES = 16  # 128 bits: two different images never collide by chance
_BUCKET_ROWS = 4_000_000  # are sorted at a time, in about 50 bytes of memory each


def image_digests(values: NDArray[Any]) -> bytes:
    """Return the digest of each row of a contiguous array [n, values]."""
    return b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in values)


def digests_in(data: bytes) -> NDArray[Any]:
    """Return the digests in bytes as an array: void [n]."""
    return np.frombuffer(data, f"V{DIGEST_BYTES}")


def read_digests(path: Path) -> NDArray[Any]:
    """Return the digests in a file, void [n], mapped."""
    return mapped(path, np.dtype(f"V{DIGEST_BYTES}"))


def join_files(sources: Iterable[Path], target: Path) -> Path:
    """Write the contents of files, one after another, to `target`; return it."""
    with naming_full_disk(target), target.open("wb") as whole:
        for source in sources:
            with source.open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)
    return target


def repeated(digests: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield all rows whose digest occurs more than once, some groups of equal rows at a time.

    A result is rows and the number of each row's group, int64 [n] each: group by group from 0, and within a group in
    the order of the rows. `digests`: void [rows]. However many there are, few are in memory: they are taken in buckets
    by their value.
    """
    halves = digests.view("<u8").reshape(-1, 2)
    buckets = -(-len(halves) // _BUCKET_ROWS)
    for bucket in range(buckets):
        rows = np.flatnonzero(halves[:, 0] % buckets == bucket)
        low, high = np.ascontiguousarray(halves[rows].T)
        order = np.lexsort((high, low))  # stable: equal rows stay in order
        rows, low, high = rows[order], low[order], high[order]
        as_before = np.zeros(len(rows) + 1, bool)
        as_before[1:-1] = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
        is_repeated = as_before[:-1] | as_before[1:]
        yield rows[is_repeated], np.cumsum(~as_before[:-1][is_repeated]) - 1
