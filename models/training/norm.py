"""Batch normalization over the global batch, with statistics that do not depend on the number of ranks.

Keras's own normalizes each rank's rows by themselves, so its model depends on the world size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from models.training.types import Tensor


@dataclass(frozen=True)
class GlobalBatch:
    """A layer's view of the rows of all ranks.

    `weights`: float32 [n], 1 for a row, 0 for a stand-in row. `sum`: returns the sum over all ranks of a float32
    tensor, given a name unique among the layers; its gradient is the sum over all ranks, too.
    """

    weights: Tensor
    sum: Callable[[Tensor, str], Tensor]


_current: ContextVar[GlobalBatch | None] = ContextVar("current_global_batch", default=None)


@contextmanager
def over(batch: GlobalBatch) -> Iterator[None]:
    """Let every batch normalization called inside take its statistics over this batch."""
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


def has_batch_normalization(model: Any) -> bool:
    """Return whether a model has such a layer: in training, its output for a row then depends on the whole batch."""
    return any(isinstance(layer, BatchNormalization) for layer in model.layers)


class BatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization over the global batch. Export replaces it by Keras's, the same at inference.

    Ioffe and Szegedy, "Batch normalization" (2015); across devices: Peng et al., "MegDet" (2018), section 3.2.
    """

    def call(self, inputs: Tensor, training: bool = False, mask: Any = None) -> Tensor:
        """Return inputs [batch, …, channels], each channel with mean 0 and std 1, times gamma, plus beta."""
        if not training:
            return super().call(inputs, training=False)
        batch = _current.get()
        if batch is None:
            raise RuntimeError(f"layer {self.name}: found no batch to normalize over, expected training inside a step")
        x = tf.cast(inputs, tf.float32)
        mean, variance = self._moments(x, batch)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(x * scale + (self.beta - mean * scale), inputs.dtype)

    def _moments(self, x: Tensor, batch: GlobalBatch) -> tuple[Tensor, Tensor]:
        """Return each channel's mean and variance over the rows of all ranks, with a single allreduce."""
        pixels = range(1, x.shape.rank - 1)
        per_row = tf.concat([tf.reduce_sum(x, pixels), tf.reduce_sum(tf.square(x), pixels)], axis=1)
        sums = tf.tensordot(batch.weights, per_row, 1)
        count = tf.reduce_sum(batch.weights) * tf.cast(tf.reduce_prod(tf.shape(x)[1:-1]), tf.float32)
        total = batch.sum(tf.concat([sums, [count]], axis=0), f"normalize.{self.name}")
        mean, square = tf.split(total[:-1] / tf.maximum(total[-1], 1.0), 2)
        return mean, tf.maximum(square - tf.square(mean), 0.0)
