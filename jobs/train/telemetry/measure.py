"""What the ranks tell each other at each measurement, in one small allreduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.train.compute.collective import Collective
from jobs.train.compute.step import LocalResult
from jobs.train.telemetry.flight_recorder import Flight


@dataclass(frozen=True)
class Measurement:
    """The steps since the last measurement, k of them, over all ranks; the same on every rank.

    `losses`: float64 [k], each step's mean over its global batch, before the update. `reaches`: float64 [k], what no
    sum of the step's gradients exceeds, 0 where they need not be exact. `accuracy`: on the last global batch after the
    last update, dropout off; NaN where the model's outputs are not finite. `stop`: some rank was asked to stop.
    `times`: float64 [ranks, 3], the seconds each spent waiting for input, computing, and in allreduce.
    """

    losses: NDArray[Any]
    reaches: NDArray[Any]
    accuracy: float
    stop: bool
    times: NDArray[Any]


def exchange(
    collective: Collective, taken: Sequence[tuple[LocalResult, Flight]], global_rows: int, stop: bool
) -> Measurement:
    """Sum over all ranks what each one's calls of the graph gave since the last measurement: `taken`, at least one."""
    times = np.zeros((collective.world_size, 3))
    times[collective.rank] = np.sum([(flight.input, flight.compute, flight.allreduce) for _, flight in taken], axis=0)
    losses = np.concatenate([local.loss_sums for local, _ in taken])
    reaches = np.concatenate([local.reaches for local, _ in taken])
    mine = np.concatenate([losses, reaches, [taken[-1][0].right, stop], times.reshape(-1)])
    total = np.asarray(collective.sum(tf.constant(mine, tf.float64), "measurement"))
    steps = len(losses)
    return Measurement(
        total[:steps] / global_rows,
        total[steps : 2 * steps],
        float(total[2 * steps]) / global_rows,
        bool(total[2 * steps + 1]),
        total[2 * steps + 2 :].reshape(-1, 3),
    )
