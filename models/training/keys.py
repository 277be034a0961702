"""Random numbers that depend on seed, step and the row's place in the global batch, and on nothing else.

An ordinary random layer draws from a stream of its own in each process, so that what it draws changes with the number
of processes and is lost with them. What is drawn by a key is the same at any world size and after any restart.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class StepKey:
    """Where a local batch lies in the training: symbolic int32 scalars, but for the seed.

    The rows of this process are rows first_row, first_row + stride, … of a global batch of `global_rows`.
    """

    seed: int
    step: Any
    first_row: Any
    global_rows: Any
    stride: Any = 1

    def uniform(self, salt: int, local_rows: Any, features: list[int]) -> Any:
        """Return float32 [local_rows, *features], uniform in [0, 1): this process's rows of the global batch's."""
        # Drawing for the whole global batch costs little and makes a row's numbers independent of the slicing. Philox
        # gives the same numbers on CPU and GPU: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
        numbers = tf.random.stateless_uniform(
            [self.global_rows, *features], seed=[self.seed ^ salt, self.step], alg="philox"
        )
        mine = numbers[self.first_row : self.first_row + local_rows * self.stride : self.stride]
        return tf.ensure_shape(mine, [None, *features])  # by a stride that is a tensor it is forgotten


def salt_of(name: str) -> int:
    """Return a number in [0, 2³¹) that keeps one use of a key apart from another."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF
