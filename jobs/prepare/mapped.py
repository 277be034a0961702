"""Arrays in files, which stay on the disk until they are used, and leave memory again when others need it."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_BYTES = 128 << 20  # of a file whose pages may all be in memory
_TOGETHER = _MOST_BYTES >> 16  # rows: with each, Linux maps up to 64 KiB around it


def mapped(path: Path, dtype: np.dtype[Any], width: int | None = None) -> NDArray[Any]:
    """Return the values in a file, read-only: [n], or [n, width] if a width is given."""
    if not path.stat().st_size:  # nothing to map
        return np.empty(0 if width is None else (0, width), dtype)
    values = np.memmap(path, dtype, "r")
    return values if width is None else values.reshape(-1, width)


def take(values: NDArray[Any], rows: NDArray[Any] | slice) -> NDArray[Any]:
    """Return rows of an array, as a copy. Of a large mapped one, few pages are in this process's memory at a time.

    The kernel would take pages back only when memory runs out, and count the whole file as this process's until then.
    """
    file = _file_of(values)
    if file is None or len(file) <= _MOST_BYTES:
        taken = np.asarray(values[rows])
        return taken.copy() if isinstance(rows, slice) else taken
    if isinstance(rows, slice):
        rows = np.arange(*rows.indices(len(values)))
    taken = np.empty((len(rows), *values.shape[1:]), values.dtype)
    for start in range(0, len(rows), _TOGETHER):
        taken[start : start + _TOGETHER] = values[rows[start : start + _TOGETHER]]
        file.madvise(mmap.MADV_DONTNEED)
    return taken


def _file_of(values: NDArray[Any]) -> mmap.mmap | None:
    """Return the map that an array is a view of; None if it is in memory."""
    owner: Any = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None
