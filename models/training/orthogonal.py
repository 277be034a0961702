"""Orthogonalization of a matrix: its singular vectors stay, its singular values all become about 1."""

import tensorflow as tf

from models.training.types import Tensor

# A polynomial a s + b s³ + c s⁵ that, applied five times, takes singular values in [0.003, 1] to [0.7, 1.2]. Jordan et
# al., "Muon: an optimizer for hidden layers in neural networks" (2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ for a float32 matrix U S Vᵀ [m, n], by a Newton-Schulz iteration: matrix products only.

    Zeros stay zeros.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = tf.transpose(matrix) if is_tall else matrix  # so that the products below are of the smaller size
    x = x / (tf.norm(x) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = tf.matmul(x, x, transpose_b=True)
        x = _A * x + tf.matmul(_B * gram + _C * tf.matmul(gram, gram), x)
    return tf.transpose(x) if is_tall else x
