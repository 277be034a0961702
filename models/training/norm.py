"""Batch normalization over the global batch: statistics that do not depend on how many ranks share it.

Keras's own normalizes each rank's rows by themselves, so that the model depends on the world size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True)
class GlobalBatch:
    """How a layer sees beyond this rank's rows.

    `weights`: float32 [n], 1 for a row, 0 for a stand-in of none. `sum`: from a float32 tensor and a name, unique among
    the layers, to its sum over all ranks; its gradient is the sum over all ranks, too.
    """

    weights: Any
    sum: Callable[[Any, str], Any]


_current: ContextVar[GlobalBatch | None] = ContextVar("current_global_batch", default=None)


@contextmanager
def over(batch: GlobalBatch) -> Iterator[None]:
    """Let every normalization called inside take its statistics over that batch."""
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


def normalizes(model: Any) -> bool:
    """Tell whether a model has such a layer, so that what it computes of a row depends on the batch around it."""
    return any(isinstance(layer, BatchNormalization) for layer in model.layers)


class BatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization over the global batch. Export replaces it by Keras's own: same at inference.

    Ioffe and Szegedy, "Batch normalization" (2015); across devices: Peng et al., "MegDet" (2018), section 3.2.
    """

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """Return inputs [batch, …, channels] with mean 0 and deviation 1 a channel, times gamma, plus beta."""
        if not training:
            return super().call(inputs, training=False)
        batch = _current.get()
        if batch is None:
            raise RuntimeError(f"layer {self.name}: training outside of a step, so there is no batch to normalize over")
        x = tf.cast(inputs, tf.float32)
        mean, variance = self._moments(x, batch)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(x * scale + (self.beta - mean * scale), inputs.dtype)

    def _moments(self, x: Any, batch: GlobalBatch) -> tuple[Any, Any]:
        """Return mean and variance of each channel over all rows of all ranks; one sum over the ranks for both."""
        pixels = range(1, x.shape.rank - 1)
        per_row = tf.concat([tf.reduce_sum(x, pixels), tf.reduce_sum(tf.square(x), pixels)], axis=1)
        sums = tf.tensordot(batch.weights, per_row, 1)
        count = tf.reduce_sum(batch.weights) * tf.cast(tf.reduce_prod(tf.shape(x)[1:-1]), tf.float32)
        total = batch.sum(tf.concat([sums, [count]], axis=0), f"normalize.{self.name}")
        mean, square = tf.split(total[:-1] / tf.maximum(total[-1], 1.0), 2)
        return mean, tf.maximum(square - tf.square(mean), 0.0)
