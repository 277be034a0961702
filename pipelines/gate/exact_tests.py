"""Exact tests on paired errors: binomial sums, nothing approximate.

Of images that one of two models gets right and the other wrong, each is as likely to be the one's as the other's where
the models are equally good: McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12 (1947), here with the binomial distribution itself.
"""

from math import exp, fsum, inf, lgamma, log, log1p
from typing import Literal


def mcnemar(first: int, second: int, alternative: Literal["two-sided", "less", "greater"] = "two-sided") -> float:
    """Return the exact p-value for `first` and `second` discordant pairs, both ≥ 0.

    "less": of the hypothesis that first's probability is at least a half, against less; "greater": the reverse.
    """
    pairs = first + second
    if alternative == "greater":
        first, second = second, first
    if alternative == "two-sided":
        return min(1.0, 2 * binomial_cdf(min(first, second), pairs, 0.5))
    return binomial_cdf(first, pairs, 0.5)


def binomial_cdf(successes: int, trials: int, p: float) -> float:
    """Return the probability of `successes` or fewer of `trials`, each of probability p in [0, 1]."""
    if successes >= trials:
        return 1.0
    log_p, log_q = (log(p) if p > 0 else -inf), (log1p(-p) if p < 1 else -inf)
    terms = []
    for k in range(successes + 1):
        log_term = lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1)
        log_term += (k * log_p if k else 0.0) + (trials - k) * log_q
        terms.append(exp(log_term))
    return min(1.0, fsum(terms))
