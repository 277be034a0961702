"""Dropout whose masks depend on seed, step and the row's place in the global batch, and on nothing else.

An ordinary dropout layer draws from a stream of its own in each process, so that its masks change with the number of
processes and are lost with them. Here each row's mask is the same at any world size and after any restart.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True)
class StepKey:
    """Where a local batch lies in the training: symbolic int32 scalars, but for the seed.

    The rows of this process are rows [first_row, first_row + n) of a global batch of `global_rows`.
    """

    seed: int
    step: Any
    first_row: Any
    global_rows: Any

    def uniform(self, salt: int, local_rows: Any, features: list[int]) -> Any:
        """Return float32 [local_rows, *features], uniform in [0, 1): this process's rows of the global batch's."""
        # Drawing for the whole global batch costs little and makes a row's numbers independent of the slicing. Philox
        # gives the same numbers on CPU and GPU: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
        numbers = tf.random.stateless_uniform(
            [self.global_rows, *features], seed=[self.seed ^ salt, self.step], alg="philox"
        )
        return numbers[self.first_row : self.first_row + local_rows]


_current: ContextVar[StepKey | None] = ContextVar("current_step_key", default=None)


@contextmanager
def keyed(key: StepKey) -> Iterator[None]:
    """Let every random layer called inside draw by this key."""
    token = _current.set(key)
    try:
        yield
    finally:
        _current.reset(token)


class Dropout(keras.layers.Dropout):
    """keras.layers.Dropout with keyed masks. Export replaces it by Keras's own: they do the same at inference."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return inputs [batch, …] with a share `rate` of its values zeroed and the rest scaled by 1 / (1 − rate)."""
        if not training or self.rate == 0:
            return inputs
        key = _current.get()
        if key is None:
            raise RuntimeError(f"layer {self.name}: training outside of a step, so there is no key to draw a mask by")
        salt = zlib.crc32(self.name.encode()) & 0x7FFFFFFF
        uniform = key.uniform(salt, tf.shape(inputs)[0], inputs.shape[1:])
        scale = tf.cast(1 / (1 - self.rate), inputs.dtype)
        return tf.where(uniform >= self.rate, inputs * scale, tf.zeros([], inputs.dtype))
