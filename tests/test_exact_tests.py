"""The exact tests, compared with SciPy and statsmodels on random tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from jobs.evaluate.metrics import wilson_interval
from pipelines.gate.exact_tests import binomial_cdf, mcnemar

counts = st.integers(0, 400)


@given(counts, counts, counts, counts)
@settings(deadline=None, max_examples=200)
def test_mcnemar_equals_that_of_statsmodels(both: int, lost: int, gained: int, neither: int) -> None:
    expected = reference_mcnemar([[both, lost], [gained, neither]], exact=True).pvalue
    two_sided = min(1.0, 2 * mcnemar(min(lost, gained), max(lost, gained)))
    assert two_sided == pytest.approx(min(expected, 1.0), rel=1e-9, abs=1e-300)


@given(counts, counts)
@settings(deadline=None, max_examples=200)
def test_mcnemar_equals_the_binomial_test_of_scipy(lost: int, gained: int) -> None:
    less, greater = mcnemar(lost, gained), mcnemar(gained, lost)
    if lost + gained == 0:
        assert less == greater == 1.0
        return
    pairs = lost + gained
    for p, alternative in ((less, "less"), (greater, "greater"), (min(1.0, 2 * min(less, greater)), "two-sided")):
        expected = stats.binomtest(lost, pairs, 0.5, alternative).pvalue
        assert p == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.integers(0, 3000), st.integers(1, 3000), st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_the_binomial_cdf_equals_that_of_scipy(successes: int, trials: int, p: float) -> None:
    assert binomial_cdf(successes, trials, p) == pytest.approx(
        stats.binom.cdf(successes, trials, p), rel=1e-8, abs=1e-12
    )


@given(st.integers(0, 5000), st.integers(1, 5000))
@settings(deadline=None, max_examples=200)
def test_the_wilson_interval_equals_that_of_statsmodels_and_scipy(successes: int, count: int) -> None:
    successes = min(successes, count)
    interval = wilson_interval(successes, count)
    assert interval == pytest.approx(proportion_confint(successes, count, 0.05, method="wilson"), abs=1e-9)
    expected = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-9)
