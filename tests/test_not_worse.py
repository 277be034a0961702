"""The test of "not worse": its errors by enumeration of all tables, with the probabilities of SciPy's distributions."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.gate.not_worse import images_needed, loss_bound, not_worse

ALPHA = 0.05
ALLOWED = ALPHA  # promoted at a true loss of delta
SIZES = (20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DELTAS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def most_lost(count: int, delta: float, gained: int, alpha: float = ALPHA, start: int = -1) -> int:
    """Return how many may be lost for a promotion, −1 where none may; it is at least `start`."""
    low, step = start, 1
    while low + step <= count - gained and not_worse(low + step, gained, count, delta) <= alpha:
        low, step = low + step, 2 * step
    high = min(low + step, count - gained + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if not_worse(middle, gained, count, delta) <= alpha:
            low = middle
        else:
            high = middle
    return low


def promoted(count: int, delta: float, p_lost: float, p_gained: float, alpha: float = ALPHA) -> float:
    """Return the probability of a promotion where a share p_lost gets worse and p_gained better."""
    first, last = (int(stats.binom.ppf(tail, count, p_gained)) for tail in (1e-6, 1 - 1e-6))
    chance, most = 2e-6 if p_gained else 0.0, -1
    for gained in range(max(first, 0), last + 1):
        most = most_lost(count, delta, gained, alpha, most)
        rest = count - gained
        lost_few = stats.binom.cdf(most, rest, min(1.0, p_lost / (1 - p_gained))) if most >= 0 else 0.0
        chance += stats.binom.pmf(gained, count, p_gained) * lost_few
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
def test_a_model_worse_by_delta_is_promoted_as_seldom_as_promised(count: int, p_lost: float, p_gained: float) -> None:
    assert promoted(count, 0.005, p_lost, p_gained) <= ALLOWED


@pytest.mark.parametrize("delta", [0.001, 0.005, 0.05])
@pytest.mark.parametrize("count", [20, 100, 1000, 10_000])
def test_one_sided_differences_are_no_way_around_it(count: int, delta: float) -> None:
    assert promoted(count, delta, delta, 0.0) <= ALLOWED


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(("count", "delta"), [(20, 0.05), (30, 0.1), (100, 0.005), (200, 0.02)])
def test_no_overlap_of_errors_is_a_way_around_it(count: int, delta: float, alpha: float) -> None:
    assert worst(count, delta, alpha, count) <= alpha


def worst(count: int, delta: float, alpha: float, most_gained: int) -> float:
    """Return the largest probability of a promotion at a true loss of delta, over all p_gained that matter."""
    gained = np.arange(most_gained + 1)
    most: list[int] = []
    for number in gained:
        most.append(most_lost(count, delta, int(number), alpha, most[-1] if most else -1) if number < count else 0)
    shares = np.linspace(0, ((1 - delta) / 2) ** 0.5, 400)[:-1] ** 2
    if most_gained < count:  # as far as the tables listed hold all but a millionth
        shares = np.linspace(0, (0.6 * most_gained / count) ** 0.5, 200) ** 2
    chances = []
    for share in shares:
        lost_few = stats.binom.cdf(most, count - gained, (share + delta) / (1 - share))
        chances.append((stats.binom.pmf(gained, count, share) * lost_few).sum())
    return float(max(chances))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", SIZES)
def test_the_whole_grid_keeps_the_promise(count: int) -> None:
    chances = {delta: worst(count, delta, ALPHA, min(count, 100)) for delta in DELTAS}
    print(count, {delta: f"{chance:.2%}" for delta, chance in chances.items()})
    assert max(chances.values()) <= ALLOWED


def old_bound(lost: int, gained: int, count: int) -> float:
    """Return the bound of 0.1.0, which took the number of discordant pairs as given."""
    pairs = lost + gained
    return float(pairs * (2 * stats.beta.ppf(1 - ALPHA, lost + 1, gained) - 1) / count)


@pytest.mark.parametrize("gained", [30, 50, 100, 200])
def test_balanced_comparisons_of_the_size_of_mnist_decide_as_before(gained: int) -> None:
    """Up to the two images next to the threshold."""
    before = max(lost for lost in range(400) if old_bound(lost, gained, 10_000) <= 0.005)
    assert abs(most_lost(10_000, 0.005, gained) - before) <= 2


@pytest.mark.parametrize(
    ("lost", "gained", "count", "points"),
    [(1, 0, 200, 2.36), (0, 0, 20, 14.00), (50, 0, 10_000, 0.63), (60, 40, 10_000, 0.37), (20, 0, 20, 100)],
)
def test_the_bound_in_points(lost: int, gained: int, count: int, points: float) -> None:
    assert 100 * loss_bound(lost, gained, count, ALPHA) == pytest.approx(points, abs=0.01)


@given(st.integers(1, 300), st.data(), st.floats(-0.3, 0.3), st.sampled_from([0.01, 0.05, 0.4]))
@settings(deadline=None, max_examples=50)
def test_the_bound_is_where_the_p_value_is_alpha(count: int, data: st.DataObject, delta: float, alpha: float) -> None:
    lost = data.draw(st.integers(0, count))
    gained = data.draw(st.integers(0, count - lost))
    bound = loss_bound(lost, gained, count, alpha)
    assert (lost - gained) / count < bound <= 1 or lost == count
    assert bound == 1 or not_worse(lost, gained, count, bound) <= alpha
    p = partial(not_worse, count=count, delta=round(delta, 6))
    if lost:
        assert p(lost - 1, gained) <= p(lost, gained) + 1e-3
        assert p(lost - 1, min(gained + 1, count)) <= p(lost, gained) + 1e-3


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("delta", [0.002, 0.005, 0.01, 0.05, 0.5])
def test_how_many_images_a_delta_needs(delta: float, alpha: float) -> None:
    needed = images_needed(delta, alpha)
    assert needed is not None
    assert not_worse(0, 0, needed, delta) <= alpha
    if needed > 1:
        assert not_worse(0, 0, needed - 1, delta) > alpha


def test_delta_zero_asks_for_a_better_model() -> None:
    assert images_needed(0.0, ALPHA) is None
    assert not_worse(0, 0, 10_000, 0.0) == 1
    assert not_worse(100, 100, 10_000, 0.0) > 0.4
    assert not_worse(60, 100, 10_000, 0.0) < 0.002
    assert images_needed(1.0, ALPHA) == 1
    assert images_needed(1e-9, ALPHA) == pytest.approx(2_995_732_274, rel=1e-6)
    assert images_needed(5e-324, ALPHA) == 10**15
    assert math.isclose(not_worse(5, 5, 10, 1.0), 0, abs_tol=1e-12)
