"""The noninferiority test: its error rate, by enumerating all tables with the probabilities of SciPy."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.gate.not_worse import loss_upper_bound, noninferiority_p_value, required_sample_size

ALPHA = 0.05
MOST_PROMOTED = ALPHA  # probability of a promotion at a true loss of delta
SIZES = (20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DELTAS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def most_lost(count: int, delta: float, gained: int, alpha: float = ALPHA, start: int = -1) -> int:
    """Return the most lost images with a promotion, −1 if no table has one. It is known to be at least `start`."""
    low, step = start, 1
    while low + step <= count - gained and noninferiority_p_value(low + step, gained, count, delta) <= alpha:
        low, step = low + step, 2 * step
    high = min(low + step, count - gained + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if noninferiority_p_value(middle, gained, count, delta) <= alpha:
            low = middle
        else:
            high = middle
    return low


def promoted(count: int, delta: float, p_lost: float, p_gained: float, alpha: float = ALPHA) -> float:
    """Return the probability of a promotion if each image is lost with p_lost and gained with p_gained."""
    first, last = (int(stats.binom.ppf(tail, count, p_gained)) for tail in (1e-6, 1 - 1e-6))
    chance, most = 2e-6 if p_gained else 0.0, -1
    for gained in range(max(first, 0), last + 1):
        most = most_lost(count, delta, gained, alpha, most)
        rest = count - gained
        p_few_lost = stats.binom.cdf(most, rest, min(1.0, p_lost / (1 - p_gained))) if most >= 0 else 0.0
        chance += stats.binom.pmf(gained, count, p_gained) * p_few_lost
    return float(chance)


@pytest.mark.parametrize(
    ("count", "p_lost", "p_gained"),
    [
        (200, 0.005, 0.0),
        (1000, 0.005, 0.0),
        (1000, 0.007, 0.002),
        (10_000, 0.005, 0.0),
        (10_000, 0.006, 0.001),
        pytest.param(10_000, 0.010, 0.005, marks=pytest.mark.slow),
    ],
)
def test_a_model_worse_by_delta_is_promoted_with_a_probability_of_at_most_alpha(
    count: int, p_lost: float, p_gained: float
) -> None:
    assert promoted(count, 0.005, p_lost, p_gained) <= MOST_PROMOTED


@pytest.mark.parametrize("delta", [0.001, 0.005, 0.05])
@pytest.mark.parametrize("count", [20, 100, 1000, 10_000])
def test_a_model_that_only_loses_is_promoted_with_a_probability_of_at_most_alpha(count: int, delta: float) -> None:
    assert promoted(count, delta, delta, 0.0) <= MOST_PROMOTED


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(("count", "delta"), [(20, 0.05), (30, 0.1), (100, 0.005), (200, 0.02)])
def test_at_any_overlap_of_errors_a_promotion_has_a_probability_of_at_most_alpha(
    count: int, delta: float, alpha: float
) -> None:
    assert worst(count, delta, alpha, count) <= alpha


def worst(count: int, delta: float, alpha: float, most_gained: int) -> float:
    """Return the largest probability of a promotion at a true loss of delta, over p_gained."""
    gained = np.arange(most_gained + 1)
    most: list[int] = []
    for number in gained:
        most.append(most_lost(count, delta, int(number), alpha, most[-1] if most else -1) if number < count else 0)
    shares = np.linspace(0, ((1 - delta) / 2) ** 0.5, 400)[:-1] ** 2
    if most_gained < count:  # only where the listed tables hold all but a millionth of the probability
        shares = np.linspace(0, (0.6 * most_gained / count) ** 0.5, 200) ** 2
    chances = []
    for share in shares:
        p_few_lost = stats.binom.cdf(most, count - gained, (share + delta) / (1 - share))
        chances.append((stats.binom.pmf(gained, count, share) * p_few_lost).sum())
    return float(max(chances))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", SIZES)
def test_over_all_sizes_and_deltas_a_promotion_has_a_probability_of_at_most_alpha(count: int) -> None:
    chances = {delta: worst(count, delta, ALPHA, min(count, 100)) for delta in DELTAS}
    print(count, {delta: f"{chance:.2%}" for delta, chance in chances.items()})
    assert max(chances.values()) <= MOST_PROMOTED


def conditional_bound(lost: int, gained: int, count: int) -> float:
    """Return the upper bound of the loss conditional on the number of discordant pairs, as a simpler test has it."""
    pairs = lost + gained
    return float(pairs * (2 * stats.beta.ppf(1 - ALPHA, lost + 1, gained) - 1) / count)


@pytest.mark.parametrize("gained", [30, 50, 100, 200])
def test_balanced_comparisons_of_the_size_of_mnist_decide_as_the_conditional_test(gained: int) -> None:
    """Except for the two images next to the threshold."""
    conditional = max(lost for lost in range(400) if conditional_bound(lost, gained, 10_000) <= 0.005)
    assert abs(most_lost(10_000, 0.005, gained) - conditional) <= 2


@pytest.mark.parametrize(
    ("lost", "gained", "count", "points"),
    [(1, 0, 200, 2.36), (0, 0, 20, 14.00), (50, 0, 10_000, 0.63), (60, 40, 10_000, 0.37), (20, 0, 20, 100)],
)
def test_the_upper_bound_of_the_loss_in_percentage_points(lost: int, gained: int, count: int, points: float) -> None:
    assert 100 * loss_upper_bound(lost, gained, count, ALPHA) == pytest.approx(points, abs=0.01)


@given(st.integers(1, 300), st.data(), st.floats(-0.3, 0.3), st.sampled_from([0.01, 0.05, 0.4]))
@settings(deadline=None, max_examples=50)
def test_at_the_upper_bound_the_p_value_is_alpha(count: int, data: st.DataObject, delta: float, alpha: float) -> None:
    lost = data.draw(st.integers(0, count))
    gained = data.draw(st.integers(0, count - lost))
    bound = loss_upper_bound(lost, gained, count, alpha)
    assert (lost - gained) / count < bound <= 1 or lost == count
    assert bound == 1 or noninferiority_p_value(lost, gained, count, bound) <= alpha
    p = partial(noninferiority_p_value, count=count, delta=round(delta, 6))
    if lost:
        assert p(lost - 1, gained) <= p(lost, gained) + 1e-3
        assert p(lost - 1, min(gained + 1, count)) <= p(lost, gained) + 1e-3


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("delta", [0.002, 0.005, 0.01, 0.05, 0.5])
def test_the_required_sample_size_is_the_least_that_passes(delta: float, alpha: float) -> None:
    size = required_sample_size(delta, alpha)
    assert size is not None
    assert noninferiority_p_value(0, 0, size, delta) <= alpha
    if size > 1:
        assert noninferiority_p_value(0, 0, size - 1, delta) > alpha


def test_with_delta_zero_only_a_better_model_passes() -> None:
    assert required_sample_size(0.0, ALPHA) is None
    assert noninferiority_p_value(0, 0, 10_000, 0.0) == 1
    assert noninferiority_p_value(100, 100, 10_000, 0.0) > 0.4
    assert noninferiority_p_value(60, 100, 10_000, 0.0) < 0.002
    assert required_sample_size(1.0, ALPHA) == 1
    assert required_sample_size(1e-9, ALPHA) == pytest.approx(2_995_732_274, rel=1e-6)
    assert required_sample_size(5e-324, ALPHA) == 10**15
    assert math.isclose(noninferiority_p_value(5, 5, 10, 1.0), 0, abs_tol=1e-12)
