"""Gradient compression: gradients travel between ranks as 16-bit floats, half their bytes.

Horovod adds up float16 itself. It cannot add bfloat16, so the ranks exchange it and add it up in float32.
"""

from collections.abc import Sequence

import tensorflow as tf

from jobs.train.compute.collective import Collective
from models.training.types import Tensor

# float16 spans 6e-8 to 65,504. Mean gradients are small, so this factor shifts the range to 2e-10 to 256. A power of
# two rounds nothing. A larger gradient becomes infinite: the training stops with an error at the loss that follows, or,
# with a loss scale, skips the step.
FLOAT16_FACTOR = 2.0**8

_MAX_ALLGATHER_RANKS = 4  # up to this many, an allgather sends a rank no more bytes than a reduction in shares


def sum_compressed(
    gradients: Sequence[Tensor], collective: Collective, compression: str, factor: float = FLOAT16_FACTOR
) -> list[Tensor]:
    """Return the sum over all ranks of each float32 gradient, the same bits on every rank.

    `compression`: float32 (none), float16 or bfloat16. `factor`: multiplies the gradients while they are float16.
    """
    if compression == "float16":
        sums = collective.sum_gradients([to_float16(gradient, factor) for gradient in gradients])
        return [from_float16(total, factor) for total in sums]
    if compression == "bfloat16":
        return [sum_bfloat16(gradient, collective, f"gradient.{n}") for n, gradient in enumerate(gradients)]
    return collective.sum_gradients(gradients)


def to_float16(gradient: Tensor, factor: float = FLOAT16_FACTOR) -> Tensor:
    """Return a float32 gradient × `factor` as float16."""
    return tf.cast(gradient * factor, tf.float16)


def from_float16(total: Tensor, factor: float = FLOAT16_FACTOR) -> Tensor:
    """Return a sum of `to_float16` gradients as float32."""
    return tf.cast(total, tf.float32) / factor


def sum_bfloat16(gradient: Tensor, collective: Collective, name: str) -> Tensor:
    """Return the float32 sum over all ranks of a float32 tensor that travels as bfloat16.

    Few ranks send each other the whole tensor. Of more ranks, each adds up one share, whose sum is bfloat16 again.
    """
    ranks, values = collective.world_size, gradient.shape.num_elements()
    bits = _to_bits(tf.reshape(gradient, [-1]))
    if ranks <= _MAX_ALLGATHER_RANKS:
        total = _sum_rows(collective.allgather(bits[None], name))
    else:
        shares = tf.reshape(tf.pad(bits, [[0, -values % ranks]]), [ranks, -1])
        own_sum = _sum_rows(collective.alltoall(shares, f"{name}.part"))
        total = _from_bits(tf.reshape(collective.allgather(_to_bits(own_sum)[None], name), [-1])[:values])
    return tf.reshape(total, gradient.shape)


def _to_bits(numbers: Tensor) -> Tensor:
    """Return float32 numbers as the bits of bfloat16, uint16, which Horovod can send."""
    return tf.bitcast(tf.cast(numbers, tf.bfloat16), tf.uint16)


def _from_bits(bits: Tensor) -> Tensor:
    return tf.cast(tf.bitcast(bits, tf.bfloat16), tf.float32)


def _sum_rows(bits: Tensor) -> Tensor:
    return tf.reduce_sum(_from_bits(bits), 0)
