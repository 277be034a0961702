"""Pixels in a Parquet column, and the float32 numbers that they stand for, whichever way a dataset stores them.

`prepare.pixels` decides: float32 numbers as `list<float>`, or the archive's bytes as a fixed-size binary. Of the types
and compressions that were measured, bytes of fixed size with LZ4 were the fastest to decode that are still compressed:
0.55 µs a row of MNIST, against 10.9 for `list<float>` (tests/benchmarks/TRIED.md).
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# What a byte stands for: the correctly rounded quotient by 255. Taking it from a table is faster than the division.
LEVELS = (np.arange(256) / 255.0).astype(np.float32)


def to_column(pixels: NDArray[Any]) -> pa.Array:
    """Return images [n, …] as a column of n rows: float32 as `list<float>`, uint8 as a fixed-size binary."""
    rows, values = len(pixels), pixels.reshape(-1)
    size = len(values) // rows
    if pixels.dtype == np.uint8:
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), rows, [None, pa.py_buffer(values)])
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * size), pa.array(values))


def from_column(column: pa.Array) -> NDArray[Any]:
    """Return a column's images as stored, on the same memory: float32 or uint8 [n, values], n ≥ 1."""
    if pa.types.is_fixed_size_binary(column.type):
        size = column.type.byte_width
        pixels = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size, column.offset * size)
    else:
        pixels = column.flatten().to_numpy()
    return pixels.reshape(len(column), -1)


def to_float(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return stored pixels as float32 in [0, 1], of the same shape; float32 as they are."""
    return LEVELS[pixels] if pixels.dtype == np.uint8 else pixels
