"""The patch of a layer's input that one unit reads."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Patch(NamedTuple):
    """A patch of maps. `row`, `column`: where it begins, −1 and below where it begins in the padding.

    `values`: [rows, columns, channels], 0 in the padding. `outside`: flat positions in `values` that are padding.
    """

    row: int
    column: int
    values: NDArray[Any]
    outside: tuple[int, ...]


def patch_of(
    source: NDArray[Any], at: tuple[int, ...], size: tuple[int, int], strides: tuple[int, int], padding: str
) -> Patch:
    """Return what the unit at (row, column, …) reads of `source` [height, width, channels].

    `size`: of the kernel or the window. `padding`: "same" or "valid", as TensorFlow has them: "same" pads as little as
    gives ceil(input / stride) outputs, the odd pixel at the bottom and on the right.
    """
    row, column = (
        at[axis] * strides[axis] - (_padding(source.shape[axis], size[axis], strides[axis]) if padding == "same" else 0)
        for axis in (0, 1)
    )
    rows, columns = np.arange(row, row + size[0]), np.arange(column, column + size[1])
    is_inside = np.outer((rows >= 0) & (rows < source.shape[0]), (columns >= 0) & (columns < source.shape[1]))
    clipped = source[np.ix_(rows.clip(0, source.shape[0] - 1), columns.clip(0, source.shape[1] - 1))]
    values = np.where(is_inside[..., None], clipped, 0.0)
    outside = np.flatnonzero(np.broadcast_to(~is_inside[..., None], values.shape))
    return Patch(row, column, values, tuple(outside.tolist()))


def _padding(length: int, size: int, stride: int) -> int:
    """Return the pixels of padding before the first one."""
    outputs = -(-length // stride)
    return max((outputs - 1) * stride + size - length, 0) // 2
