"""The two-sample test behind the drift of features: what it notices, what it ignores, how often it is mistaken."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from jobs.evaluate.two_sample import TwoSampleResult, matched, two_sample_test

CLASSES, SIZE = 4, 6
LOW_P = 0.01


def sample(rows: int, random: np.random.Generator, shares: tuple[float, ...] = (0.25,) * 4) -> tuple[Any, Any]:
    """Return features float32 [rows, SIZE], a cloud for each class, and labels int [rows]."""
    labels = random.choice(CLASSES, rows, p=shares)
    centres = 3 * np.eye(CLASSES, SIZE)
    return (centres[labels] + random.normal(0, 1, (rows, SIZE))).astype(np.float32), labels


def compare(one: tuple[Any, Any], other: tuple[Any, Any], seed: int = 0, exchanges: int = 999) -> TwoSampleResult:
    random = np.random.default_rng(seed)
    rows, others = matched(one[1], other[1], 200, random)
    return two_sample_test(one[0][rows], other[0][others], one[1][rows], exchanges, random)


def changed(kind: str, features: NDArray[Any], labels: NDArray[Any]) -> tuple[Any, Any]:
    if kind == "moved":
        return features + np.float32(0.5), labels
    if kind == "wider":
        return features * np.float32(1.5), labels
    if kind == "labels exchanged":
        return features, (labels + 1) % CLASSES
    assert kind == "one class moved"
    return features + 1.5 * (labels == 2)[:, None].astype(np.float32), labels


@pytest.mark.parametrize("kind", ["moved", "wider", "labels exchanged", "one class moved"])
def test_a_change_of_any_kind_is_significant(kind: str) -> None:
    random = np.random.default_rng(1)
    result = compare(sample(400, random), changed(kind, *sample(400, random)))
    assert result.p_value == 1 / 1000  # the smallest possible
    assert result.distance > 0.1


@pytest.mark.parametrize("pairs", [4, 5, 6])
def test_exchanging_all_pairs_counts_as_no_less_drift_than_exchanging_none(pairs: int) -> None:
    """So of 2**pairs equally likely exchanges at least two reach the observed distance, also when it is the largest."""
    labels = np.zeros(pairs, int)
    for seed in range(20):
        random = np.random.default_rng(seed)
        one, other = (random.normal(shift, 1, (pairs, SIZE)).astype(np.float32) for shift in (0, 3))
        assert two_sample_test(one, other, labels, 1999, random).p_value > 0.5 / 2 ** (pairs - 1)


def test_other_label_shares_alone_are_no_drift() -> None:
    random = np.random.default_rng(2)
    result = compare(sample(400, random), sample(400, random, (0.85, 0.05, 0.05, 0.05)))
    assert result.p_value > LOW_P
    assert 120 < result.images < 190


def test_without_drift_p_is_at_most_alpha_with_a_probability_of_alpha() -> None:
    """Of 300 tests, the number with p ≤ 0.1 is binomial: within its central 99.9 %."""
    random = np.random.default_rng(3)
    p_values = [compare(sample(60, random), sample(60, random), seed, 99).p_value for seed in range(300)]
    hits = sum(p <= 0.1 for p in p_values)
    low, high = binom.interval(0.999, 300, 0.1)
    assert low <= hits <= high


def test_the_distance_is_the_unbiased_mmd_within_classes() -> None:
    random = np.random.default_rng(4)
    (x, labels), (y, _) = sample(12, random), sample(12, random)
    both, twice = np.concatenate([x, y]).astype(float), np.concatenate([labels, labels])
    squares = ((both[:, None] - both[None]) ** 2).sum(axis=2)
    same = (twice[:, None] == twice) & ~np.eye(24, dtype=bool)
    kernel = np.exp(-squares / np.median(squares[same]))
    terms = [
        kernel[i, j] + kernel[12 + i, 12 + j] - kernel[i, 12 + j] - kernel[12 + i, j]
        for i in range(12)
        for j in range(12)
        if i != j and labels[i] == labels[j]
    ]
    result = two_sample_test(x, y, labels, 99, random)
    assert result.distance == pytest.approx(max(0.0, float(np.mean(terms))) ** 0.5, abs=1e-5)


def test_matched_rows_have_equal_labels_and_occur_once() -> None:
    random = np.random.default_rng(5)
    labels, others = np.array([0, 0, 0, 1, 2]), np.array([2, 0, 1, 1, 0, 3])
    rows, other_rows = matched(labels, others, 100, random)
    assert labels[rows].tolist() == others[other_rows].tolist()
    assert sorted(labels[rows].tolist()) == [0, 0, 1, 2]
    assert len({*rows.tolist()}) == len({*other_rows.tolist()}) == 4
    assert len(matched(np.zeros(9), np.zeros(9), 3, random)[0]) == 3


def test_a_change_is_significant_with_hundreds_of_classes() -> None:
    random = np.random.default_rng(6)
    labels = np.repeat(np.arange(400), 5)
    one, other = (random.normal(labels[:, None], 1, (len(labels), SIZE)).astype(np.float32) for _ in range(2))
    moved = other + np.float32(1)
    assert compare((one, labels), (moved, labels)).p_value < LOW_P
    assert compare((one, labels), (other, labels)).p_value > LOW_P


@pytest.mark.parametrize("labels", [[], [7]])
def test_too_few_images_are_never_significant(labels: list[int]) -> None:
    features = np.ones((len(labels), SIZE), np.float32)
    result = two_sample_test(features, 2 * features, np.array(labels), 99, np.random.default_rng(0))
    assert result == TwoSampleResult(len(labels), 0.0, 1.0)
