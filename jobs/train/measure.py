"""What the ranks tell each other after each call of the graph, in one small allreduce."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from jobs.train.collective import Collective
from jobs.train.feed import Call
from jobs.train.flight import Flight
from jobs.train.step import LocalResult


@dataclass(frozen=True)
class Measurement:
    """A call of the graph over all ranks; the same on every rank.

    `losses`: float64 [k], each step's mean over its global batch, before the update. `accuracy`: on the last global
    batch after the last update, dropout off. `stop`: some rank was asked to stop. `times`: float64 [ranks, 3], the
    seconds each spent waiting for input, computing, and in allreduce.
    """

    losses: np.ndarray
    accuracy: float
    stop: bool
    times: np.ndarray


def exchange(collective: Collective, call: Call, local: LocalResult, flight: Flight, stop: bool) -> Measurement:
    """Sum what each rank measured, over all ranks."""
    times = np.zeros((collective.world_size, 3))
    times[collective.rank] = flight.input, flight.compute, flight.allreduce
    mine = np.concatenate([local.loss_sums, [local.right, stop], times.reshape(-1)])
    total = np.asarray(collective.sum(tf.constant(mine, tf.float64), "measurement"))
    return Measurement(
        total[: call.steps] / call.global_rows,
        float(total[call.steps]) / call.global_rows,
        bool(total[call.steps + 1]),
        total[call.steps + 2 :].reshape(-1, 3),
    )
