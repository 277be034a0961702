"""Dropout with masks that depend on the step's key alone: the same at any world size and after any restart."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import tensorflow as tf

from models.training.keys import StepKey, salt_of
from models.training.types import Tensor

_current: ContextVar[StepKey | None] = ContextVar("current_step_key", default=None)


@contextmanager
def keyed(key: StepKey) -> Iterator[None]:
    """Let every dropout layer called inside draw with this key."""
    token = _current.set(key)
    try:
        yield
    finally:
        _current.reset(token)


class Dropout(keras.layers.Dropout):
    """keras.layers.Dropout with keyed masks. Export replaces it by Keras's, which is the same at inference."""

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return inputs [batch, …] with a share `rate` of the values zeroed and the others scaled by 1 / (1 − rate)."""
        if not training or self.rate == 0:
            return inputs
        key = _current.get()
        if key is None:
            raise RuntimeError(f"layer {self.name}: found no key to draw a mask with, expected training inside a step")
        uniform = key.uniform(salt_of(self.name), tf.shape(inputs)[0], inputs.shape[1:])
        # A product: TensorFlow's where takes 16-bit values one by one, slower than all else here.
        return inputs * (tf.cast(uniform >= self.rate, inputs.dtype) * tf.cast(1 / (1 - self.rate), inputs.dtype))
