"""NumPy arrays as tensors on the same memory."""

from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from jobs.train.data.row_cache import ALIGNMENT
from models.training.types import Tensor


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, without a copy if it begins at a multiple of ALIGNMENT bytes, as the row cache's do.

    The tensor keeps the array alive. Nothing may write to the array afterwards; each graph call has a new one.
    """
    if array.size and array.flags.carray and array.ctypes.data % ALIGNMENT == 0:
        # TensorFlow does not check the alignment, and its kernels crash the process on any other.
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)
