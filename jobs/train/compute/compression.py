"""Gradients in half their bytes on the way between ranks.

float16 is added up by Horovod. bfloat16, which it cannot add, the ranks exchange and add up themselves, in float32.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from jobs.train.compute.collective import Collective

# float16 spans 6e-8 to 65,504; a mean gradient is small: so 2e-10 to 256. A power of two, which rounds nothing. One
# that is longer becomes infinite: the training refuses the loss that follows, or with a loss scale leaves it out.
FACTOR = 2.0**8

_FEW = 4  # ranks, up to which a rank receives no more from each of the others than in a sum by parts


def summed(gradients: Sequence[Any], collective: Collective, form: str, factor: float = FACTOR) -> list[Any]:
    """Return the sum over all ranks of each float32 gradient, the same bits on every rank.

    `form`: float32, float16 or bfloat16, as which they travel. `factor`: by which they are enlarged as float16.
    """
    if form == "float16":
        sums = collective.sum_gradients([narrowed(gradient, factor) for gradient in gradients])
        return [widened(total, factor) for total in sums]
    if form == "bfloat16":
        return [sum_bfloat16(gradient, collective, f"gradient.{n}") for n, gradient in enumerate(gradients)]
    return collective.sum_gradients(gradients)


def narrowed(gradient: Any, factor: float = FACTOR) -> Any:
    """Return a float32 gradient × `factor` as float16, for the wire."""
    return tf.cast(gradient * factor, tf.float16)


def widened(total: Any, factor: float = FACTOR) -> Any:
    """Return the sum of narrowed gradients as float32."""
    return tf.cast(total, tf.float32) / factor


def sum_bfloat16(gradient: Any, collective: Collective, name: str) -> Any:
    """Return the float32 sum over all ranks of a float32 tensor that travels as bfloat16.

    Few ranks send each other all they have. Of more, each adds up a part, and that travels as bfloat16, too.
    """
    ranks, values = collective.world_size, gradient.shape.num_elements()
    bits = _bits(tf.reshape(gradient, [-1]))
    if ranks <= _FEW:
        total = _sum_of_rows(collective.rows_of_all(bits[None], name))
    else:
        parts = tf.reshape(tf.pad(bits, [[0, -values % ranks]]), [ranks, -1])
        mine = _sum_of_rows(collective.rows_for_me(parts, f"{name}.part"))
        total = _numbers(tf.reshape(collective.rows_of_all(_bits(mine)[None], name), [-1])[:values])
    return tf.reshape(total, gradient.shape)


def _bits(numbers: Any) -> Any:
    """Return float32 numbers as the bits of bfloat16, uint16: Horovod sends these."""
    return tf.bitcast(tf.cast(numbers, tf.bfloat16), tf.uint16)


def _numbers(bits: Any) -> Any:
    return tf.cast(tf.bitcast(bits, tf.bfloat16), tf.float32)


def _sum_of_rows(bits: Any) -> Any:
    return tf.reduce_sum(_numbers(bits), 0)
