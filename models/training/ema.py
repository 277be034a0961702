"""The running average of a training's weights, which generalizes better than the last ones."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class EMA:
    """An exponential moving average of variables, kept in others: a ← d a + (1 − d) w.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992). The decay rises to its final
    value, d = min(decay, (1 + t) / (10 + t)) after t updates, so that the first weights are soon forgotten: as in
    TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, variables: Sequence[Any], averages: Sequence[Any], decay: float) -> None:
        """`variables`, `averages`: float32 tf.Variables, pairwise of one shape. `decay`: in [0, 1)."""
        self._pairs = list(zip(variables, averages, strict=True))
        self._decay = decay

    def update(self, step: Any) -> None:
        """Take in the variables after an update. `step`: int32 scalar, 0 for the first update."""
        updates = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1 + updates) / (10 + updates))
        for variable, average in self._pairs:
            average.assign_sub((1 - decay) * (average - variable))
