"""An exact test that a model is not worse than another one by some margin, on the same test images.

What is random is which images the test set holds: the numbers of images that only the old model gets right (lost) and
only the new one does (gained) are multinomial. A test given their sum, as McNemar's, says nothing of a margin, so this
one is unconditional: it takes the largest probability over all that is not known. Sidik, "Exact unconditional tests for
testing non-inferiority in matched-pairs design", Statistics in Medicine 22 (2003), with the score of Tango, Statistics
in Medicine 17 (1998). NumPy and SciPy are imported where they are needed.
"""

from math import ceil, log, log1p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIE = 1e-9  # scores that differ by less are the same: they come of the same table in another order of rounding
_BOUND_DIGITS = 1000  # a bound is exact to this part of its distance from the loss seen
# The unknown share is looked at in even steps of its square root, which has about the same deviation everywhere, then
# more closely around the largest values. Over 20 to 10,000 images and deltas of 0 to 0.1, a grid 15 times as fine found
# promotions at a true loss of delta in at most 5.06 % of the cases for alpha 5 % (1.02 % for 1 %, 10.08 % for 10 %).
# So a fiftieth is added to what the grid finds.
_BEYOND = 1.02
_STEP = 0.1  # in square roots of images
_FINE = 400  # images; beyond, steps grow by _GROWTH
_GROWTH = 1.05
_PEAKS, _BETWEEN = 4, 12
_SEARCHED, _MOST = 100_000, 1e15  # images that are needed: looked for, and ever named


def not_worse(lost: int, gained: int, count: int, delta: float) -> float:
    """Return the exact p-value of the hypothesis that the accuracy is lower by `delta` or more.

    `lost`, `gained` ≥ 0: images that only the old or only the new model got right, of `count` > 0. `delta` in [−1, 1].
    Whatever the true accuracies are and however the errors overlap: where the accuracy is lower by `delta` or more, a
    value of at most alpha comes up with a probability of at most alpha, for any alpha and any count.
    """
    return _chance(_as_good(lost, gained, count, delta), count, delta)


def loss_bound(lost: int, gained: int, count: int, alpha: float) -> float:
    """Return how much lower the accuracy may be at most, with confidence 1 − alpha: the delta of p-value alpha.

    In (−1, 1]. The p-value falls with delta, but for small steps back where two tables change places, so a decision
    on a given delta is for `not_worse`; this is to be read by people.
    """
    low = (lost - gained) / count
    reach = ((lost + gained) ** 0.5 + log(1 / alpha)) / count  # of the order of the bound
    high = min(low + reach, 1.0)
    while high < 1 and not_worse(lost, gained, count, high) > alpha:
        low, high = high, min(high + reach, 1.0)
    while high - low > reach / _BOUND_DIGITS:
        middle = (low + high) / 2
        if not_worse(lost, gained, count, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def images_needed(delta: float, alpha: float) -> int | None:
    """Return the least count at which a model that changes no answer passes; None for delta 0, where it never does.

    `delta` in [0, 1]. Beyond 100,000 it is (1 − delta)^count ≤ alpha alone: at least so many.
    """
    if delta <= 0:
        return None
    if delta >= 1:
        return 1
    # Where nothing is gained, no loss is seen with a probability of (1 − delta)^count; the p-value is no less.
    least = ceil(min(log(alpha) / log1p(-delta), _MOST))
    if least > _SEARCHED:
        return least
    low, high = least - 1, least
    while not_worse(0, 0, high, delta) > alpha:
        low, high = high, high + max(1, high // 4)
    while high - low > 1:
        middle = (low + high) // 2
        if not_worse(0, 0, middle, delta) > alpha:
            low = middle
        else:
            high = middle
    return high


def _score(lost: "NDArray[Any]", gained: "NDArray[Any]", count: int, loss: float) -> "NDArray[Any]":
    """Return Tango's score of tables: how far the loss seen is from `loss`, in deviations under that hypothesis."""
    import numpy as np

    linear = (2 * count - lost + gained) * loss - lost - gained
    constant = -gained * loss * (1 - loss)
    share = (np.sqrt(np.maximum(linear**2 - 8 * count * constant, 0)) - linear) / (4 * count)  # gained, most likely
    variance = count * (2 * share + loss * (1 - loss))
    distance = lost - gained - count * loss
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(variance > 0, distance / np.sqrt(variance), np.sign(distance) * np.inf)
    return np.nan_to_num(score, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _as_good(lost: int, gained: int, count: int, loss: float) -> "NDArray[Any]":
    """Return for each number gained, 0 to `count`, the most that may be lost for a score as low as this table's.

    −1 where none may.
    """
    import numpy as np

    seen = _score(np.array(float(lost)), np.array(float(gained)), count, loss) + _TIE
    others = np.arange(count + 1)
    low, high = np.full(count + 1, -1), count - others + 1  # low is as good, high is not
    while np.any(high - low > 1):
        middle = (low + high) // 2
        is_as_good = _score(middle.astype(float), others.astype(float), count, loss) <= seen
        low, high = np.where(is_as_good, middle, low), np.where(is_as_good, high, middle)
    # Who gains more may lose no less: else a lower accuracy would not be the less likely to pass.
    return np.maximum.accumulate(low)


def _chance(most_lost: "NDArray[Any]", count: int, loss: float) -> float:
    """Return the largest probability of the tables with lost ≤ most_lost[gained], over all shares that differ by loss.

    `most_lost` int [count + 1].
    """
    import numpy as np

    shares = _shares(count, loss)
    chances = _chances(most_lost, count, loss, shares)
    peaks = np.argsort(chances)[-_PEAKS:]
    ends = shares[np.maximum(peaks - 1, 0)], shares[np.minimum(peaks + 1, len(shares) - 1)]
    closer = np.linspace(*ends, _BETWEEN).ravel()
    return float(min(1.0, _BEYOND * max(chances.max(), _chances(most_lost, count, loss, closer).max())))


def _chances(most_lost: "NDArray[Any]", count: int, loss: float, shares: "NDArray[Any]") -> "NDArray[Any]":
    """Return the probability at each of `shares`, the smaller of gained and lost: float64 [shares].

    Summed over the numbers gained within six deviations and twelve images of their mean: all but 1e-8.
    """
    import numpy as np
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    of_gained, of_lost = shares + max(-loss, 0.0), shares + max(loss, 0.0)
    width = 6 * np.sqrt(count * of_gained) + 12
    first = np.maximum(np.floor(count * of_gained - width), 0).astype(int)
    last = np.minimum(np.ceil(count * of_gained + width), count).astype(int)
    sizes = last - first + 1
    which = np.repeat(np.arange(len(shares)), sizes)  # all windows in one array
    gained = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[which]
    log_ways = gammaln(count + 1) - gammaln(gained + 1) - gammaln(count - gained + 1)
    chance = np.exp(log_ways + xlogy(gained, of_gained[which]) + xlog1py(count - gained, -of_gained[which]))
    rest, most = count - gained, most_lost[gained]
    of_rest = np.divide(of_lost, 1 - of_gained, out=np.ones_like(shares), where=of_gained < 1)
    few = bdtr(np.clip(most, 0, rest), np.maximum(rest, 1), np.minimum(of_rest, 1)[which])
    few = np.where(most < 0, 0.0, np.where(most >= rest, 1.0, few))
    return np.bincount(which, chance * few)


def _shares(count: int, loss: float) -> "NDArray[Any]":
    """Return the values of the smaller of the two unknown shares at which the probability is looked at."""
    import numpy as np

    most = count * (1 - abs(loss)) / 2
    images = np.arange(0, _FINE**0.5, _STEP) ** 2
    growing = _FINE * _GROWTH ** np.arange(max(0.0, log(max(most, 1) / _FINE) / log(_GROWTH)))
    images = np.concatenate([images, growing])
    return np.append(images[images < most], most) / count
