"""The header of an IDX archive: which types and sizes the format has, and its bytes."""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
CODES: dict[np.dtype[Any], int] = {dtype: code for code, dtype in DTYPES.items()}
MAX_DIMENSIONS = 4
_MAX_SIZE = 2**32 - 1


@dataclass(frozen=True)
class Header:
    """The header of an archive.

    `dtype` is the type in the file (big-endian; one of uint8, int8, int16, int32, float32, float64). `shape` holds
    1 to 4 sizes: the first from 0, the others from 1, all at most 2**32 - 1.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The number of rows: the size of the first dimension."""
        return self.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row; () in a one-dimensional archive."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def header_bytes(self) -> int:
        """The number of bytes before the first value."""
        return 4 + 4 * len(self.shape)

    @property
    def data_bytes(self) -> int:
        """The size of all rows in bytes."""
        return self.rows * self.row_bytes

    @property
    def file_bytes(self) -> int:
        """The size of the plain file in bytes: header and data."""
        return self.header_bytes + self.data_bytes

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))} of {self.dtype.name}"


def header_of(array: NDArray[Any]) -> Header:
    """Return the header that an array gets in an archive. Raises ValueError if IDX has no such array."""
    header = Header(array.dtype.newbyteorder(">"), array.shape)
    if header.dtype not in CODES:
        names = ", ".join(dtype.name for dtype in CODES)
        raise ValueError(f"IDX has no type for {array.dtype}: expected one of {names}")
    if not 1 <= array.ndim <= MAX_DIMENSIONS:
        raise ValueError(f"an array of {array.ndim} dimensions: expected 1 to {MAX_DIMENSIONS}")
    if 0 in header.row_shape or max(array.shape) > _MAX_SIZE:
        raise ValueError(f"an array of shape {array.shape}: expected 1 to {_MAX_SIZE} (the first dimension from 0)")
    return header


def encode(header: Header) -> bytes:
    """Return the bytes of a header."""
    dimensions = len(header.shape)
    return struct.pack(f">HBB{dimensions}I", 0, CODES[header.dtype], dimensions, *header.shape)
