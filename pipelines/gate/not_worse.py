"""An exact noninferiority test: that a model is not worse than another by some margin, on the same test images.

The sample is random: the numbers of images that only the old model classifies correctly (lost) and only the new one
(gained) are multinomial. A test conditional on their sum, such as McNemar's, cannot test a margin. This test is
unconditional: it maximizes the probability over the nuisance parameter. Sources: Sidik, "Exact unconditional tests for
testing non-inferiority in matched-pairs design", Statistics in Medicine 22 (2003), with the score of Tango, Statistics
in Medicine 17 (1998). NumPy and SciPy are imported inside the functions, to keep the command line fast.
"""

from math import ceil, log, log1p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIE = 1e-9  # scores this close are equal: the same table, rounded in another order
_BOUND_DIGITS = 1000  # a bound is exact to this fraction of its distance from the observed loss
# The nuisance parameter is searched in even steps of its square root, which has about the same standard deviation
# everywhere, then more finely around the peaks. On a grid 15 times as fine, over 20 to 10,000 images and deltas of 0 to
# 0.1, a true loss of delta was promoted in at most 5.06 % of the cases for alpha 5 % (1.02 % for 1 %, 10.08 % for
# 10 %). So the maximum on the grid is raised by a fiftieth.
_GRID_MARGIN = 1.02
_STEP = 0.1  # in square roots of images
_EVEN_STEPS_UP_TO = 400  # images; beyond, steps grow by _GROWTH
_GROWTH = 1.05
_PEAKS, _POINTS_PER_PEAK = 4, 12
_LARGEST_SEARCHED, _LARGEST_SIZE = 100_000, 1e15  # required images: searched for exactly, and ever returned


def noninferiority_p_value(lost: int, gained: int, count: int, delta: float) -> float:
    """Return the exact p-value of the hypothesis that the accuracy is lower by `delta` or more.

    `lost`, `gained` ≥ 0: images that only the old or only the new model classifies correctly, of `count` > 0. `delta`
    is in [−1, 1]. If the accuracy is lower by `delta` or more, a p-value of at most alpha has a probability of at most
    alpha. This holds for any alpha, count, true accuracies and overlap of the errors.
    """
    return _max_probability(_tables_as_extreme(lost, gained, count, delta), count, delta)


def loss_upper_bound(lost: int, gained: int, count: int, alpha: float) -> float:
    """Return the upper confidence bound of the accuracy loss at confidence 1 − alpha: the delta of p-value alpha.

    In (−1, 1]. The p-value falls with delta, except for small steps back where two tables change their order. So a
    decision on a given delta needs `noninferiority_p_value`; the bound is for people to read.
    """
    low = (lost - gained) / count
    reach = ((lost + gained) ** 0.5 + log(1 / alpha)) / count  # of the order of the bound
    high = min(low + reach, 1.0)
    while high < 1 and noninferiority_p_value(lost, gained, count, high) > alpha:
        low, high = high, min(high + reach, 1.0)
    while high - low > reach / _BOUND_DIGITS:
        middle = (low + high) / 2
        if noninferiority_p_value(lost, gained, count, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def required_sample_size(delta: float, alpha: float) -> int | None:
    """Return the least count at which a model without any changed answer passes; None for delta 0, where none can.

    `delta` is in [0, 1]. Beyond 100,000 the result is a lower bound: the least count with (1 − delta)^count ≤ alpha.
    """
    if delta <= 0:
        return None
    if delta >= 1:
        return 1
    # If nothing is gained, no loss is seen with a probability of (1 − delta)^count. The p-value is no smaller.
    least = ceil(min(log(alpha) / log1p(-delta), _LARGEST_SIZE))
    if least > _LARGEST_SEARCHED:
        return least
    low, high = least - 1, least
    while noninferiority_p_value(0, 0, high, delta) > alpha:
        low, high = high, high + max(1, high // 4)
    while high - low > 1:
        middle = (low + high) // 2
        if noninferiority_p_value(0, 0, middle, delta) > alpha:
            low = middle
        else:
            high = middle
    return high


def _tango_score(lost: "NDArray[Any]", gained: "NDArray[Any]", count: int, loss: float) -> "NDArray[Any]":
    """Return Tango's score of tables: the observed loss minus `loss`, in standard deviations under `loss`."""
    import numpy as np

    linear = (2 * count - lost + gained) * loss - lost - gained
    constant = -gained * loss * (1 - loss)
    discriminant = np.maximum(linear**2 - 8 * count * constant, 0)
    p_gained = (np.sqrt(discriminant) - linear) / (4 * count)  # the maximum likelihood estimate under `loss`
    variance = count * (2 * p_gained + loss * (1 - loss))
    distance = lost - gained - count * loss
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(variance > 0, distance / np.sqrt(variance), np.sign(distance) * np.inf)
    return np.nan_to_num(score, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _tables_as_extreme(lost: int, gained: int, count: int, loss: float) -> "NDArray[Any]":
    """Return, for each number gained from 0 to `count`, the most lost images with a score as low as this table's.

    int [count + 1]; −1 if no table has one.
    """
    import numpy as np

    observed = _tango_score(np.array(float(lost)), np.array(float(gained)), count, loss) + _TIE
    all_gained = np.arange(count + 1)
    low, high = np.full(count + 1, -1), count - all_gained + 1  # low is as extreme, high is not
    while np.any(high - low > 1):
        middle = (low + high) // 2
        is_as_extreme = _tango_score(middle.astype(float), all_gained.astype(float), count, loss) <= observed
        low, high = np.where(is_as_extreme, middle, low), np.where(is_as_extreme, high, middle)
    # More gained must allow at least as much lost. Otherwise a lower accuracy could be more likely to pass.
    return np.maximum.accumulate(low)


def _max_probability(most_lost: "NDArray[Any]", count: int, loss: float) -> float:
    """Return the largest probability of the tables with lost ≤ most_lost[gained], over the nuisance parameter.

    `most_lost`: int [count + 1]. The probabilities of lost and gained differ by `loss`.
    """
    import numpy as np

    shares = _nuisance_grid(count, loss)
    probabilities = _probabilities(most_lost, count, loss, shares)
    peaks = np.argsort(probabilities)[-_PEAKS:]
    ends = shares[np.maximum(peaks - 1, 0)], shares[np.minimum(peaks + 1, len(shares) - 1)]
    finer = np.linspace(*ends, _POINTS_PER_PEAK).ravel()
    largest = max(probabilities.max(), _probabilities(most_lost, count, loss, finer).max())
    return float(min(1.0, _GRID_MARGIN * largest))


def _probabilities(most_lost: "NDArray[Any]", count: int, loss: float, shares: "NDArray[Any]") -> "NDArray[Any]":
    """Return the probability at each of `shares`, the smaller of p_gained and p_lost: float64 [shares].

    Sums over the numbers gained within six standard deviations and twelve images of their mean: all but 1e-8.
    """
    import numpy as np
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    p_gained, p_lost = shares + max(-loss, 0.0), shares + max(loss, 0.0)
    width = 6 * np.sqrt(count * p_gained) + 12
    first = np.maximum(np.floor(count * p_gained - width), 0).astype(int)
    last = np.minimum(np.ceil(count * p_gained + width), count).astype(int)
    sizes = last - first + 1
    which = np.repeat(np.arange(len(shares)), sizes)  # all windows in one array
    gained = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[which]
    log_combinations = gammaln(count + 1) - gammaln(gained + 1) - gammaln(count - gained + 1)
    p_of_gained = np.exp(log_combinations + xlogy(gained, p_gained[which]) + xlog1py(count - gained, -p_gained[which]))
    rest, most = count - gained, most_lost[gained]
    p_lost_of_rest = np.divide(p_lost, 1 - p_gained, out=np.ones_like(shares), where=p_gained < 1)
    p_few_lost = bdtr(np.clip(most, 0, rest), np.maximum(rest, 1), np.minimum(p_lost_of_rest, 1)[which])
    p_few_lost = np.where(most < 0, 0.0, np.where(most >= rest, 1.0, p_few_lost))
    return np.bincount(which, p_of_gained * p_few_lost)


def _nuisance_grid(count: int, loss: float) -> "NDArray[Any]":
    """Return the grid of the nuisance parameter: the smaller of the two unknown probabilities."""
    import numpy as np

    most = count * (1 - abs(loss)) / 2
    images = np.arange(0, _EVEN_STEPS_UP_TO**0.5, _STEP) ** 2
    steps = np.arange(max(0.0, log(max(most, 1) / _EVEN_STEPS_UP_TO) / log(_GROWTH)))
    images = np.concatenate([images, _EVEN_STEPS_UP_TO * _GROWTH**steps])
    return np.append(images[images < most], most) / count
