"""What the ranks exchange at each measurement, in one small allreduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.flight_log import Flight
from jobs.train.compute.collective import Collective
from jobs.train.compute.step import LocalResult


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The k steps since the last measurement, over all ranks; the same on every rank.

    `losses`: float64 [k], each step's mean over its global batch, before the update. `gradient_bounds`: float64 [k], no
    sum of a step's gradients exceeds it; 0 unless training is deterministic. `accuracy`: on the last global batch after
    the last update, with dropout off; NaN if the model's outputs are not finite. `stop`: some rank was asked to stop.
    `seconds`: float64 [ranks, 3], each rank's seconds waiting for input, computing, and in allreduce.
    """

    losses: NDArray[Any]
    gradient_bounds: NDArray[Any]
    accuracy: float
    stop: bool
    seconds: NDArray[Any]


def exchange(
    collective: Collective, local: Sequence[tuple[LocalResult, Flight]], global_rows: int, stop: bool
) -> Measurement:
    """Sum over all ranks what their graph calls computed since the last measurement.

    `local`: this rank's calls, at least one. `global_rows`: rows of each global batch. `stop`: this rank was asked to.
    """
    seconds = np.zeros((collective.world_size, 3))
    seconds[collective.rank] = np.sum([(flight.input, flight.compute, flight.allreduce) for _, flight in local], axis=0)
    losses = np.concatenate([result.loss_sums for result, _ in local])
    bounds = np.concatenate([result.gradient_bounds for result, _ in local])
    own = np.concatenate([losses, bounds, [local[-1][0].correct, stop], seconds.reshape(-1)])
    total = np.asarray(collective.sum(tf.constant(own, tf.float64), "measurement"))
    steps = len(losses)
    return Measurement(
        losses=total[:steps] / global_rows,
        gradient_bounds=total[steps : 2 * steps],
        accuracy=float(total[2 * steps]) / global_rows,
        stop=bool(total[2 * steps + 1]),
        seconds=total[2 * steps + 2 :].reshape(-1, 3),
    )
