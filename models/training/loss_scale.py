"""float16 has too few exponents for small gradients: so the loss is enlarged, as far as the large ones allow."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_FIRST = 2.0**15
_STREAK = 2000  # updates without a gradient out of range, after which twice the scale is tried


class LossScale:
    """The factor by which a loss is multiplied before its gradients are taken, and they are divided after.

    A step whose gradients are not finite is left out, and the factor halved; after 2,000 good steps it is doubled.
    Always a power of two, so that it rounds nothing. Micikevicius et al., "Mixed precision training" (2018), section
    3.2; the dynamic choice: NVIDIA, "Train with mixed precision" (user guide), section 3.2.2.
    """

    def __init__(self) -> None:
        self.factor = tf.Variable(_FIRST, trainable=False, name="loss_scale")
        self.streak = tf.Variable(0, trainable=False, name="loss_scale_streak")  # good steps since it last changed

    def update(self, gradients: Sequence[Any], apply: Callable[[list[Any]], None]) -> None:
        """Divide the enlarged loss's gradients, float32, and apply them if all are finite; adapt the factor."""
        divided = [gradient / self.factor for gradient in gradients]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in divided])
        tf.cond(finite, lambda: self._good(divided, apply), self._bad)

    def _good(self, gradients: list[Any], apply: Callable[[list[Any]], None]) -> None:
        apply(gradients)
        self.streak.assign_add(1)
        grown = self.streak >= _STREAK
        self.factor.assign(tf.where(grown, self.factor * 2, self.factor))
        self.streak.assign(tf.where(grown, 0, self.streak))

    def _bad(self) -> None:
        self.factor.assign(tf.maximum(self.factor / 2, 1.0))
        self.streak.assign(0)
