"""Random numbers that depend on seed, step and a row's position in the global batch alone.

An ordinary random layer draws from its process's own stream, so its numbers change with the number of processes and
with restarts. Numbers drawn with a key are the same at any world size and after any restart.
"""

import zlib
from dataclasses import dataclass

import tensorflow as tf

from models.training.types import Tensor


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """The position of a local batch in the training: symbolic int32 scalars, except the seed.

    The local rows are rows first_row, first_row + stride, … of a global batch of `global_rows` rows.
    """

    seed: int
    step: Tensor
    first_row: Tensor
    global_rows: Tensor
    stride: Tensor = 1

    def uniform(self, salt: int, local_rows: Tensor, features: list[int]) -> Tensor:
        """Return random numbers in [0, 1) for the local rows: float32 [local_rows, *features]."""
        # Drawn for the whole global batch, which costs little, so that a row's numbers do not depend on who has it.
        # Philox gives the same numbers on CPU and GPU: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
        # (2011).
        numbers = tf.random.stateless_uniform(
            [self.global_rows, *features], seed=[self.seed ^ salt, self.step], alg="philox"
        )
        local = numbers[self.first_row : self.first_row + local_rows * self.stride : self.stride]
        return tf.ensure_shape(local, [None, *features])  # which slicing with a tensor as stride forgets


def salt_of(name: str) -> int:
    """Return a number in [0, 2³¹) that separates one use of a key from another."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF
