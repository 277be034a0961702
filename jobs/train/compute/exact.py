"""Sums whose bits do not depend on who adds what in which order, so that any number of ranks trains the same model.

Two things make a data-parallel step depend on the number of ranks, if only in the last bit; and Adam makes of it what
it likes: a weight whose gradient is all rounding moves as far as any other. Deterministic training removes both:

- A kernel's rounding depends on how many rows it is given. So a global batch is cut into slices, by its number of rows
  alone; each is computed by itself, on one thread; a rank takes whole slices.
- Float addition depends on the order. So gradients are rounded to multiples of 2⁻⁴⁴ and added as float64, which holds
  any such number below 2⁹ = 512 exactly: as for integers, every order gives the same sum. A training whose sums may
  exceed it is refused. The rounding is below what float32 leaves of a gradient above 10⁻⁶; Adam's ε alone is 10⁻⁸.

The idea of sums that any order leaves alone, by rounding the addends to a common grid first: Demmel and Nguyen,
"Fast reproducible floating-point summation" (2013).
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

SCALE = 2.0**44  # a power of two: multiplying by it rounds nothing
LIMIT = 2.0**9  # of a sum that float64 holds exactly: it has 53 bits


def to_grid(scaled: Any) -> Any:
    """Round float32 values, given as multiples of 1 / SCALE, to whole ones: float64, to be added in any order."""
    return tf.cast(tf.math.rint(scaled), tf.float64)


def reach(gradients: Sequence[Any]) -> Any:
    """Return the largest of the absolute values, given as multiples of 1 / SCALE: float64.

    No sum of slices, in whichever order, exceeds the sum of their reaches.
    """
    return tf.cast(tf.reduce_max([tf.reduce_max(tf.abs(g)) for g in gradients]), tf.float64) / SCALE


def from_grid(total: Any) -> Any:
    """Return a float64 sum of whole multiples of 1 / SCALE as a float32 value."""
    return tf.cast(total / SCALE, tf.float32)
