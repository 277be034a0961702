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
_NUMPY_NAMES = {"float": "float32", "double": "float64"}  # by Arrow's names


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


def describe(column: pa.Array) -> str:
    """Return a column's type and shape as NumPy would write them, e.g. "float32 (3, 5 to 7)" of uneven lists.

    Where it is not `DTYPE (rows, values)`, `from_column` fails or returns other images than the column's.
    """
    if pa.types.is_fixed_size_binary(column.type):
        return f"uint8 ({len(column)}, {column.type.byte_width})"
    if not pa.types.is_list(column.type):
        return f"of type {column.type}"
    values, lengths = column.flatten(), np.diff(column.offsets)
    low, high = (lengths.min(), lengths.max()) if len(lengths) else (0, 0)
    length = low if low == high else f"{low} to {high}"
    nulls = f" with {values.null_count} nulls" if values.null_count else ""
    return f"{_NUMPY_NAMES.get(str(values.type), values.type)} ({len(column)}, {length}){nulls}"


def to_float(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return stored pixels as float32 in [0, 1], of the same shape; float32 as they are."""
    return LEVELS[pixels] if pixels.dtype == np.uint8 else pixels
