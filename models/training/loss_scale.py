"""Dynamic loss scaling: float16 gradients keep small values if the loss is scaled up as far as the large ones allow."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from models.training.types import Tensor

_INITIAL_FACTOR = 2.0**15
_GROWTH_INTERVAL = 2000  # finite updates in a row, after which the factor doubles


class LossScale:
    """The factor that multiplies the loss before the backward pass, and divides the gradients after it.

    A step whose gradients are not finite is skipped and halves the factor; 2,000 finite steps in a row double it. It is
    a power of two, which rounds nothing. Micikevicius et al., "Mixed precision training" (2018), section 3.2. Dynamic
    factor: NVIDIA, "Train with mixed precision" (user guide), section 3.2.2.
    """

    def __init__(self) -> None:
        self.factor = tf.Variable(_INITIAL_FACTOR, trainable=False, name="loss_scale")
        self.streak = tf.Variable(0, trainable=False, name="loss_scale_streak")  # finite steps since the last change

    def update(self, gradients: Sequence[Tensor], apply: Callable[[list[Tensor]], None]) -> None:
        """Unscale float32 gradients, `apply` them if all are finite, and adapt the factor."""
        unscaled = [gradient / self.factor for gradient in gradients]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in unscaled])
        tf.cond(finite, lambda: self._apply(unscaled, apply), self._skip)

    def _apply(self, gradients: list[Tensor], apply: Callable[[list[Tensor]], None]) -> None:
        apply(gradients)
        self.streak.assign_add(1)
        grows = self.streak >= _GROWTH_INTERVAL
        self.factor.assign(tf.where(grows, self.factor * 2, self.factor))
        self.streak.assign(tf.where(grows, 0, self.streak))

    def _skip(self) -> None:
        self.factor.assign(tf.maximum(self.factor / 2, 1.0))
        self.streak.assign(0)
