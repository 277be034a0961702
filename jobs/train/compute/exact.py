"""Sums whose bits do not depend on their order, so that any number of ranks trains the same model.

Two things make a data-parallel step depend on the number of ranks, if only in the last bit. Adam amplifies that bit: a
weight whose gradient is all rounding moves as far as any other. Deterministic training removes both:

- A kernel's rounding depends on its number of rows. So a global batch is cut into slices, by its number of rows alone.
  Each slice is computed by itself, on one thread, and a rank takes whole slices.
- Floating-point addition depends on the order. So gradients are rounded to multiples of 2⁻⁴⁴ and added as float64,
  which holds any such number below 2⁹ = 512 exactly: as with integers, every order gives the same sum. The training
  stops with an error if a sum may exceed that. The rounding is below float32's own for gradients above 10⁻⁶; Adam's ε
  alone is 10⁻⁸.

Rounding addends to a common grid to make sums independent of their order: Demmel and Nguyen, "Fast reproducible
floating-point summation" (2013).
"""

from collections.abc import Sequence

import tensorflow as tf

from models.training.types import Tensor

SCALE = 2.0**44  # a power of two: multiplying by it rounds nothing
LIMIT = 2.0**9  # float64, with 53 bits, holds smaller sums exactly


def to_grid(scaled: Tensor) -> Tensor:
    """Round float32 values, in units of 1 / SCALE, to whole numbers: float64, to be added in any order."""
    return tf.cast(tf.math.rint(scaled), tf.float64)


def bound(gradients: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute value of a slice's gradients, which are in units of 1 / SCALE: float64 scalar.

    No sum over slices, in any order, exceeds the sum of their bounds.
    """
    return tf.cast(tf.reduce_max([tf.reduce_max(tf.abs(g)) for g in gradients]), tf.float64) / SCALE


def from_grid(total: Tensor) -> Tensor:
    """Return a float64 sum of whole multiples of 1 / SCALE as float32 values."""
    return tf.cast(total / SCALE, tf.float32)
