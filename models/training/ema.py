"""The exponential moving average (EMA) of a training's weights, which generalizes better than the last weights."""

from collections.abc import Sequence

import tensorflow as tf

from models.training.types import Tensor, Variable


class EMA:
    """The EMA of variables, kept in shadow variables: s ← d s + (1 − d) w.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992). The decay rises to its final
    value: d = min(decay, (1 + t) / (10 + t)) after t updates, so that the first weights are soon forgotten, as in
    TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, variables: Sequence[Variable], shadows: Sequence[Variable], decay: float) -> None:
        """`variables`, `shadows`: float32, of the same shapes. `decay`: in [0, 1)."""
        self._pairs = list(zip(variables, shadows, strict=True))
        self._decay = decay

    def update(self, step: Tensor) -> None:
        """Update the shadows after the variables changed. `step`: int32 scalar, 0 for the first update."""
        updates = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1 + updates) / (10 + updates))
        for variable, shadow in self._pairs:
            shadow.assign_sub((1 - decay) * (shadow - variable))
