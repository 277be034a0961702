"""The exact tests, held against SciPy and statsmodels on random tables."""

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
def test_mcnemar_is_statsmodels(both: int, lost: int, gained: int, neither: int) -> None:
    expected = reference_mcnemar([[both, lost], [gained, neither]], exact=True).pvalue
    assert mcnemar(lost, gained) == pytest.approx(min(expected, 1.0), rel=1e-9, abs=1e-300)


@given(counts, counts, st.sampled_from(["two-sided", "less", "greater"]))
@settings(deadline=None, max_examples=200)
def test_mcnemar_is_scipys_binomial_test(lost: int, gained: int, alternative: str) -> None:
    if lost + gained == 0:
        assert mcnemar(lost, gained, alternative) == 1.0  # type: ignore[arg-type]
        return
    expected = stats.binomtest(lost, lost + gained, 0.5, alternative).pvalue
    assert mcnemar(lost, gained, alternative) == pytest.approx(expected, rel=1e-9, abs=1e-300)  # type: ignore[arg-type]


@given(st.integers(0, 3000), st.integers(1, 3000), st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_the_binomial_sum_is_scipys(successes: int, trials: int, p: float) -> None:
    assert binomial_cdf(successes, trials, p) == pytest.approx(
        stats.binom.cdf(successes, trials, p), rel=1e-8, abs=1e-12
    )


@given(st.integers(0, 5000), st.integers(1, 5000))
@settings(deadline=None, max_examples=200)
def test_wilson_is_statsmodels_and_scipys(successes: int, count: int) -> None:
    successes = min(successes, count)
    found = wilson_interval(successes, count)
    assert found == pytest.approx(proportion_confint(successes, count, 0.05, method="wilson"), abs=1e-9)
    theirs = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((theirs.low, theirs.high), abs=1e-9)
