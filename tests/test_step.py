"""The training step: what it computes, and that sharing a batch out over ranks changes nothing."""

from typing import Any

import numpy as np
import tensorflow as tf

import models
from jobs.train.collective import Collective
from jobs.train.exact import SCALE, from_grid, to_grid
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


def test_gradients_on_the_grid_sum_to_the_same_bits_in_any_order() -> None:
    parts = (RANDOM.standard_normal((12, 5000)) * 10.0 ** RANDOM.uniform(-9, 1, (12, 5000))).astype(np.float32)
    sums = set()
    for _ in range(20):
        total = tf.zeros(5000, tf.float64)
        for part in RANDOM.permutation(parts):
            total += to_grid(part * np.float32(SCALE))
        sums.add(from_grid(total).numpy().tobytes())
    assert len(sums) == 1
    np.testing.assert_allclose(np.frombuffer(sums.pop(), np.float32), parts.sum(0, np.float64), rtol=1e-6, atol=1e-12)
    plain = {RANDOM.permutation(parts).sum(0, np.float32).tobytes() for _ in range(20)}
    assert len(plain) > 1  # float32 sums do depend on the order


def test_what_is_not_finite_stays_so_on_the_grid() -> None:
    assert np.isnan(from_grid(to_grid(np.array([np.nan], np.float32)) + to_grid(np.ones(1, np.float32))).numpy()).all()


def test_in_slices_a_step_does_the_same_as_at_once() -> None:
    def weights(slices: int | None) -> list[np.ndarray]:
        tf.keras.utils.set_random_seed(1)
        model = models.build("lecture", (6, 6, 1), 4)
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        TrainStep(model, optimizer, OneRank(), Augmentation(shift=1), 5, slices)(share(0, ROWS), RATE)
        return model.get_weights()

    for in_slices, at_once in zip(weights(5), weights(None), strict=True):
        np.testing.assert_allclose(in_slices, at_once, rtol=1e-4, atol=1e-5)
