"""A gradient that is too long is shortened, its direction kept."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_LARGE, _SHRINK = 2.0**40, 2.0**-100


def clipped(gradients: Sequence[Any], longest: float) -> list[Any]:
    """Return the gradients, all scaled alike so that their common L2 norm is at most `longest`.

    A gradient that is not finite stays so: the training refuses it. Pascanu et al., "On the difficulty of training
    recurrent neural networks" (2013), algorithm 1.
    """
    # The square of what exceeds 1e19 is infinite, and the scale would be 0. A power of two rounds nothing.
    largest = tf.reduce_max([tf.reduce_max(tf.abs(gradient)) for gradient in gradients])
    shrink = tf.where(largest > _LARGE, _SHRINK, 1.0)
    gradients = [gradient * shrink for gradient in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
    scale = longest / tf.maximum(norm, longest * shrink)
    return [gradient * scale for gradient in gradients]
