"""A gradient that is too long is shortened, its direction kept."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def clipped(gradients: Sequence[Any], longest: float) -> list[Any]:
    """Return the gradients, all scaled alike so that their common L2 norm is at most `longest`.

    A norm that is not finite stays so: the training refuses it. Pascanu et al., "On the difficulty of training
    recurrent neural networks" (2013), algorithm 1.
    """
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
    scale = longest / tf.maximum(norm, longest)
    return [gradient * scale for gradient in gradients]
