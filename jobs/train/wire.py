"""Gradients in half their bytes on the way between ranks.

Horovod's TensorFlow operations sum float16, but not bfloat16.
"""

from typing import Any

import tensorflow as tf

# float16 spans 6e-8 to 65,504; a mean gradient is small: so 2e-10 to 256. A power of two, which rounds nothing. One
# that is longer becomes infinite: the training refuses the loss that follows, or with a loss scale leaves it out.
FACTOR = 2.0**8


def narrowed(gradient: Any, factor: float = FACTOR) -> Any:
    """Return a float32 gradient × `factor` as float16, for the wire."""
    return tf.cast(gradient * factor, tf.float16)


def widened(total: Any, factor: float = FACTOR) -> Any:
    """Return the sum of narrowed gradients as float32."""
    return tf.cast(total, tf.float32) / factor
