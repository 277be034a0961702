"""The training step: what it computes, and that sharing a batch out over ranks changes nothing."""

from typing import Any

import numpy as np
import tensorflow as tf

import models
from jobs.train.collective import Collective
from jobs.train.feed import Call
from jobs.train.step import TrainStep, make_evaluator
from models.training.augment import Augmentation
from models.training.optimizers import SGD, Hyperparameters

ROWS = 12
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((1, ROWS, 36), np.float32)
LABELS = RANDOM.integers(0, 4, (1, ROWS)).astype(np.int32)
RATE = np.array([0.5], np.float32)


class OneRank(Collective):
    """A collective of one, without Horovod."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 1


def share(first: int, last: int, weight: float = 1.0) -> Call:
    """One rank's call of one step: rows [first, last) of the global batch."""
    rows = slice(first, last)
    weights = np.full((1, last - first), weight, np.float32)
    return Call(0, IMAGES[:, rows], LABELS[:, rows], weights, np.arange(first, last), first, ROWS)


def make(dropout: float | None = None) -> tuple[Any, TrainStep]:
    tf.keras.utils.set_random_seed(1)
    model = models.build("lecture", (6, 6, 1), 4, dropout)
    return model, TrainStep(
        model, SGD([v.value for v in model.trainable_variables], Hyperparameters()), OneRank(), Augmentation(), 5
    )


def update(call: Call) -> tuple[list[np.ndarray], float]:
    """What one step changes in each weight, and its loss."""
    model, step = make()
    before = model.get_weights()
    losses = step(call, RATE).loss_sums / ROWS
    return [new - old for new, old in zip(model.get_weights(), before, strict=True)], float(losses[0])


def test_the_shares_of_a_batch_sum_to_its_update_dropout_and_all() -> None:
    whole, loss = update(share(0, ROWS))
    parts = [update(share(*bounds)) for bounds in ((0, 5), (5, 6), (6, ROWS))]
    for n, expected in enumerate(whole):
        np.testing.assert_allclose(sum(changes[n] for changes, _ in parts), expected, rtol=1e-4, atol=1e-5)
    assert abs(sum(part for _, part in parts) - loss) < 1e-4 * loss


def test_a_stand_in_row_of_weight_zero_changes_nothing() -> None:
    changes, loss = update(share(ROWS - 1, ROWS, weight=0.0))
    assert loss == 0
    assert not any(change.any() for change in changes)


def test_losses_are_taken_before_each_update_and_fall() -> None:
    _, step = make(dropout=0)
    steps = 4
    same = Call(
        0, IMAGES.repeat(steps, 0), LABELS.repeat(steps, 0), np.ones((steps, ROWS), np.float32), np.arange(0), 0, ROWS
    )
    losses = step(same, np.array([0, 0.01, 0.01, 0.01], np.float32)).loss_sums
    assert losses.shape == (steps,)
    assert losses[0] == losses[1]
    assert losses[3] < losses[2] < losses[1]


def test_accuracy_is_measured_with_dropout_off_after_the_last_update() -> None:
    model, step = make()
    right = step(share(0, ROWS), RATE).right
    again, _ = make_evaluator(model)(IMAGES[0], LABELS[0])
    assert right == again
