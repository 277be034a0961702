"""Gradient clipping by the global norm."""

from collections.abc import Sequence

import tensorflow as tf

from models.training.types import Tensor

_LARGE, _SHRINK = 2.0**40, 2.0**-100


def clip_by_global_norm(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """Return the gradients, all scaled alike so that their common L2 norm is at most `max_norm`.

    A gradient that is not finite stays so, and the training stops with an error. Pascanu et al., "On the difficulty of
    training recurrent neural networks" (2013), algorithm 1.
    """
    # Not tf.clip_by_global_norm: the square of a gradient above 1e19 is infinite, and the scale would be 0. So shrink
    # first; a power of two rounds nothing.
    largest = tf.reduce_max([tf.reduce_max(tf.abs(gradient)) for gradient in gradients])
    shrink = tf.where(largest > _LARGE, _SHRINK, 1.0)
    gradients = [gradient * shrink for gradient in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
    scale = max_norm / tf.maximum(norm, max_norm * shrink)
    return [gradient * scale for gradient in gradients]
