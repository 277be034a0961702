"""Confidence and accuracy: bins, the expected calibration error, the temperature, the images the model is sure of."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.evaluate.calibration import (
    Chosen,
    best_temperature,
    calibration,
    choose,
    expected_error,
    lowest_limit,
    reliability,
    with_temperature,
)
from jobs.evaluate.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from jobs.evaluate.reliability import diagram
from jobs.evaluate.results import collect
from jobs.metrics import CalibrationMetrics, ReliabilityBin


def two_classes(confidence: list[float]) -> NDArray[Any]:
    """Return probabilities whose predicted class is 0."""
    return np.column_stack([confidence, 1 - np.array(confidence)]).astype(np.float32)


def measured(probabilities: NDArray[Any], labels: NDArray[Any], chosen: Chosen) -> CalibrationMetrics:
    made = collect(labels, np.arange(len(labels)), [probabilities], chosen.temperature)
    return calibration(made.confidence, made.tempered, made.correct, chosen)


def test_bins_have_equally_many_images_and_the_error_is_their_weighted_gap() -> None:
    confidence, correct = np.linspace(0.505, 0.995, 31), np.arange(31) % 4 > 0
    bins = reliability(confidence, correct)
    assert [each.count for each in bins] == [3] + 14 * [2]
    rows = [np.arange(3), *np.arange(3, 31).reshape(14, 2)]
    gaps = [abs(correct[each].mean() - confidence[each].mean()) * len(each) for each in rows]
    assert expected_error(bins) == pytest.approx(sum(gaps) / 31)


def test_fewer_images_than_bins_have_a_bin_each() -> None:
    bins = reliability(np.array([0.9, 0.6]), np.array([True, False]))
    assert bins == (
        ReliabilityBin(count=1, confidence=0.6, accuracy=0.0),
        ReliabilityBin(count=1, confidence=0.9, accuracy=1.0),
    )
    assert expected_error(bins) == pytest.approx((0.6 + 0.1) / 2)


def test_the_temperature_undoes_one_that_was_applied() -> None:
    random = np.random.default_rng(0)
    logits = 3 * random.standard_normal((20_000, 5))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random((len(logits), 1)) > honest.cumsum(axis=1)).sum(axis=1)
    for applied in (0.5, 2.5):
        stated = with_temperature(honest, applied)
        assert best_temperature(stated, labels) == pytest.approx(1 / applied, rel=0.05)
        before = measured(stated, labels, Chosen())
        after = measured(stated, labels, choose(stated, labels))
        assert before.temperature is None
        assert after.ece_with_temperature is not None
        assert after.ece_with_temperature < 0.02 < before.ece


def test_the_temperature_has_the_lowest_loss_of_all() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([1, 1, 1], 500)
    labels = np.where(random.random(500) < 0.7, probabilities.argmax(axis=1), 0)
    best = best_temperature(probabilities, labels)
    assert best is not None

    def loss(temperature: float) -> float:
        return float(-np.log(with_temperature(probabilities, temperature)[np.arange(500), labels]).mean())

    assert all(loss(best) <= loss(best * factor) for factor in (0.5, 0.98, 1.02, 2.0))


def test_without_errors_or_without_images_there_is_no_temperature() -> None:
    assert best_temperature(two_classes([0.9, 0.8]), np.array([0, 0])) is None
    assert choose(np.empty((0, 2), np.float32), np.empty(0, np.int64)) == Chosen()
    assert best_temperature(two_classes([0.9, 0.8]), np.array([1, 1])) is None  # worse than to guess


def test_probabilities_that_were_rounded_to_0_have_a_temperature() -> None:
    probabilities = np.tile(np.array([[1, 0]], np.float32), (100, 1))
    best = best_temperature(probabilities, np.arange(100) // 99)
    assert best is not None
    assert with_temperature(probabilities, best)[0, 0] == pytest.approx(0.99, abs=1e-3)


def test_the_limit_is_the_lowest_with_that_precision_and_counts_equal_confidences_together() -> None:
    labels = np.array([0, 0, 1, 0, 0, 1])
    confidence = [0.99, 0.95, 0.9, 0.8, 0.8, 0.8]
    assert lowest_limit(two_classes(confidence), labels, 0.999) == pytest.approx(0.95)
    # 2 of 3, 3 of 4 and 4 of 5 are correct, but the image that is not shares its confidence with two that are.
    assert lowest_limit(two_classes(confidence), labels, 0.7) == pytest.approx(0.95)
    assert lowest_limit(two_classes(confidence), labels, 0.6) == pytest.approx(0.8)
    assert lowest_limit(two_classes([0.9, 0.8]), np.array([1, 0]), 0.999) is None


def test_what_the_model_is_sure_of_is_counted_on_the_test_images() -> None:
    test = two_classes([0.95, 0.97, 0.99, 0.6])
    result = measured(test, np.array([0, 1, 0, 0]), Chosen(limit=0.95))
    assert result.sure is not None
    assert (result.sure.count, result.sure.errors, result.sure.share) == (3, 1, 0.75)
    assert result.sure.precision == pytest.approx(2 / 3)
    assert measured(test, np.array([0, 1, 0, 0]), Chosen(limit=0.999)).sure.precision is None  # type: ignore[union-attr]


@settings(deadline=None)  # a busy machine is not an error
@given(
    st.lists(
        st.builds(ReliabilityBin, count=st.integers(1, 10**6), confidence=st.floats(0, 1), accuracy=st.floats(0, 1)),
        min_size=1,
        max_size=15,
    )
)
def test_the_diagram_stays_within_its_frame(bins: list[ReliabilityBin]) -> None:
    for each in diagram(bins).bins:
        assert LEFT <= each.x <= WIDTH - RIGHT
        assert TOP <= each.high <= each.low <= HEIGHT - BOTTOM
        assert TOP <= each.y <= HEIGHT - BOTTOM
