"""Exact tests of paired errors, as binomial sums without approximation.

They are written out because `math` is enough for them, and importing `scipy.stats` takes a second.

If two models are equally good, an image that exactly one of them classifies correctly is as likely to be the one's as
the other's. Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12 (1947), here with the exact binomial distribution.
"""

from math import exp, fsum, inf, lgamma, log, log1p


def mcnemar(lost: int, gained: int) -> float:
    """Return the exact one-sided p-value of McNemar's test, for the alternative that more is gained than lost.

    `lost`, `gained` ≥ 0: the discordant pairs, images that only the old or only the new model classifies correctly.
    """
    return binomial_cdf(lost, lost + gained, 0.5)


def binomial_cdf(successes: int, trials: int, p: float) -> float:
    """Return the probability of at most `successes` in `trials`, each of probability p in [0, 1]."""
    if successes >= trials:
        return 1.0
    log_p, log_q = (log(p) if p > 0 else -inf), (log1p(-p) if p < 1 else -inf)
    terms = []
    for k in range(successes + 1):
        log_term = lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1)
        log_term += (k * log_p if k else 0.0) + (trials - k) * log_q
        terms.append(exp(log_term))
    return min(1.0, fsum(terms))
