"""The measurements of a training: loss and accuracy of the same steps, over all ranks."""

import numpy as np
import pytest

from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.step import LocalResult, StepOptions, TrainStep
from jobs.train.telemetry.flight_recorder import Flight
from jobs.train.telemetry.measure import exchange
from models.training.augment import Augmentation
from models.training.optimizers import SGD, Hyperparameters
from tests.test_step import IMAGES, LABELS, RATE, ROWS, OneRank, TwoEqualRanks, make, share


@pytest.mark.parametrize("options", [StepOptions(), StepOptions(microbatches=3), StepOptions(slices=4)])
def test_accuracy_is_that_of_each_steps_own_forward_pass(options: StepOptions) -> None:
    model, _ = make(dropout=0)
    optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
    step, evaluate = TrainStep(model, optimizer, OneRank(), Augmentation(), 5, options), make_evaluator(model)
    counts = []
    for _ in range(6):
        expected, _ = evaluate(IMAGES[0], LABELS[0])
        result = step(share(0, ROWS), np.array([0.05], np.float32))
        assert result.correct.tolist() == [expected]
        counts.append(expected)
    assert len(set(counts)) > 1


def test_a_measurement_has_loss_and_accuracy_of_the_same_steps_over_all_ranks() -> None:
    flight = Flight(step=0, images=0, input=0, compute=0, allreduce=0)

    def result(losses: list[float], correct: list[float], is_finite: bool = True) -> tuple[LocalResult, Flight]:
        bounds = np.zeros(len(losses))
        call = LocalResult(
            loss_sums=np.array(losses), gradient_bounds=bounds, correct=np.array(correct), is_finite=is_finite,
            allreduce_seconds=0,
        )  # fmt: skip
        return call, flight

    local = [result([4.0, 2.0], [1.0, 2.0]), result([1.0], [3.0])]
    measured = exchange(TwoEqualRanks(), local, 8, stop=False)
    assert measured.losses.tolist() == [1.0, 0.5, 0.25]
    assert measured.accuracies.tolist() == [0.25, 0.5, 0.75]
    assert (measured.is_finite, measured.stop) == (True, False)
    assert not exchange(TwoEqualRanks(), [result([1.0], [3.0], is_finite=False)], 8, stop=False).is_finite


def test_outputs_that_are_not_finite_after_the_last_update_are_noticed() -> None:
    _, step = make(dropout=0)
    assert step(share(0, ROWS), RATE).is_finite
    result = step(share(0, ROWS), np.array([1e38], np.float32))
    assert np.isfinite(result.loss_sums).all()
    assert not result.is_finite
