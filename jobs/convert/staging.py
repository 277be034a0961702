"""The images of a conversion, staged in a plain file until their number, order and type are known."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import InputError

_BLOCK = 1 << 20  # bytes in memory at a time
_INTEGERS = (np.dtype("u1"), np.dtype("i2"), np.dtype("i4"))  # in the order of preference


class Staging:
    """Images of one shape, appended in blocks and read back in any order. Use it in a `with` block.

    The file holds uint8, int16, int32, float32 or float64. It starts with the narrowest type that holds the first
    block, and is rewritten in a wider one when a block needs it. `low`, `high`: the extremes of all values.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Create the file. `name`: what errors call the source."""
        self._path, self._name = path, name
        self._file = path.open("w+b")
        self.rows = 0
        self.shape: tuple[int, ...] = ()
        self.dtype = _INTEGERS[0]
        self.low = self.high = 0.0

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, images: NDArray[Any]) -> None:
        """Append images, [n, *shape] of integers, booleans or floats. Raises InputError for a value IDX cannot hold.

        uint16 becomes int32 whatever its values, so that 16-bit pictures come back as such.
        """
        if not len(images):
            return
        low, high = images.min(), images.max()
        self._widen(_fitting(images.dtype, low, high, self._name), images.shape[1:])
        self.low, self.high = (
            (min(self.low, float(low)), max(self.high, float(high))) if self.rows else (float(low), float(high))
        )
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(images, self.dtype).data)
        self.rows += len(images)

    def read(self, order: NDArray[np.int64], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Yield the images with these row numbers, in this order, as `dtype`, in blocks of about 1 MiB."""
        self._file.flush()
        row_bytes = self._row_bytes()
        step = max(1, _BLOCK // row_bytes)
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            block = np.empty((len(rows), *self.shape), self.dtype)
            for row, target in zip(rows.tolist(), block, strict=True):
                self._read_into(target, row * row_bytes)
            yield block.astype(dtype, copy=False)

    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def _read_into(self, target: NDArray[Any], offset: int) -> None:
        if os.preadv(self._file.fileno(), [target.data], offset) != target.nbytes:
            raise OSError(f"{self._path}: the staged images were cut short")

    def _widen(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Make the file's type wide enough for one more block."""
        if not self.rows:
            self.dtype, self.shape = dtype, shape
        wider = np.result_type(self.dtype, dtype)
        if wider == self.dtype:
            return
        path = self._path.with_name(f"{self._path.name}.{wider.name}")
        with path.open("wb") as file:
            for block in self.read(np.arange(self.rows), wider):
                file.write(block.data)
        path.rename(self._path)
        self._file.close()
        self._file = self._path.open("r+b")
        self.dtype = wider


def _fitting(dtype: np.dtype[Any], low: Any, high: Any, name: str) -> np.dtype[Any]:
    """Return the narrowest staged type that holds values of `dtype` from `low` to `high` exactly."""
    if dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"{name}: found a pixel that is not a finite number, expected numbers; fix: repair the data"
            )
        return np.dtype("f8") if dtype.itemsize > 4 else np.dtype("f4")
    if dtype == np.uint16:
        return np.dtype("i4")
    for integer in _INTEGERS:
        bounds = np.iinfo(integer)
        if bounds.min <= low and high <= bounds.max:
            return integer
    raise InputError(
        f"{name}: found pixel values from {low} to {high}, expected at most 32 bits with sign; fix: rescale the values"
    )
