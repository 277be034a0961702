"""Which validation is best, and when training stops early."""

from math import inf, nan
from typing import Any

import pytest

from jobs.train.best import Best, better, stops_early
from jobs.train.config import TrainConfig


def validation(errors: int, loss: float) -> dict[str, Any]:
    return {"accuracy": 1 - errors / 100, "errors": errors, "loss": loss, "count": 100}


@pytest.mark.parametrize(
    ("by", "figures", "expected"),
    [
        ("accuracy", [(9, 0.5), (5, 0.9), (7, 0.1)], 2),
        ("loss", [(9, 0.5), (5, 0.9), (7, 0.1)], 3),
        ("accuracy", [(5, 0.9), (5, 0.5), (5, 0.5)], 2),  # the loss decides, then the earlier
        ("loss", [(5, 0.5), (4, 0.5), (4, 0.5)], 2),
        ("loss", [(90, nan), (80, inf), (9, 3.0)], 3),
        ("accuracy", [(5, nan), (5, 0.5)], 2),
    ],
)
def test_the_best_is_the_earliest_with_the_best_figure(
    by: Any, figures: list[tuple[int, float]], expected: int
) -> None:
    config, best = TrainConfig(epochs=1, best_by=by), None
    for step, figure in enumerate(figures, 1):
        best = better(best, step, validation(*figure), config)
    assert best is not None
    assert best.step == expected
    assert Best.from_numbers(best.to_numbers()).validation["errors"] == best.errors


def test_an_empty_validation_split_has_no_best() -> None:
    empty = {"accuracy": None, "errors": None, "loss": None, "count": 0}
    assert better(None, 10, empty, TrainConfig(epochs=1)) is None
    assert not stops_early(None, 10, 10, TrainConfig(epochs=1, early_stopping=1))


def test_training_stops_after_as_many_validations_without_a_better_one_as_set() -> None:
    best = Best(step=20, errors=3, loss=0.1, count=10)
    config = TrainConfig(epochs=100, early_stopping=3)
    assert [step for step in range(20, 71, 10) if stops_early(best, step, 10, config)] == [50, 60, 70]
    assert not stops_early(best, 70, 10, TrainConfig(epochs=100))
