"""A kernel two-sample test: do two samples of labelled features come from one distribution, class by class?

The statistic is the maximum mean discrepancy (MMD), with a Gaussian kernel that is 0 between images of different
classes. Each image of one sample is paired with one of the same class of the other, so other label shares alone change
nothing. If the samples come from one distribution, exchanging the images of a pair changes nothing either: the p-value
counts random exchanges with an MMD at least as large. So p ≤ alpha has a probability of at most alpha, at any number of
images and features. Sources: Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012), for the MMD and the bandwidth;
Schrab et al., "MMD Aggregated Two-Sample Test", JMLR 24 (2023), for exchanges within pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_OF_CLASS = 10  # pairs, if there are that many: a single one of a class is compared with nothing
_BLOCK = 1000  # exchanges that are drawn at once: 4 MB for 1,000 pairs


@dataclass(frozen=True)
class TwoSampleResult:
    """`images`: of each sample that were compared. `p_value`: in (0, 1].

    `distance`: the MMD, an unbiased estimate cut off at 0: 0 for equal distributions, at most the square root of 2.
    """

    images: int
    distance: float
    p_value: float


def matched(
    labels: NDArray[Any], other_labels: NDArray[Any], most: int, random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return up to `most` random pairs of rows with equal labels, as rows of each sample: int64 [pairs] each.

    `labels`, `other_labels`: int [rows] each. Each row is in one pair at most. If there are more than `most` / 10
    classes, the pairs are of that many random ones.
    """
    common = np.intersect1d(labels, other_labels)
    most_classes = max(1, most // _LEAST_OF_CLASS)
    if len(common) > most_classes:
        common = random.choice(common, most_classes, replace=False)
    rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in common:
        these, those = (random.permutation(np.flatnonzero(each == label)) for each in (labels, other_labels))
        count = min(len(these), len(those))
        rows.append(these[:count])
        others.append(those[:count])
    chosen = random.permutation(sum(map(len, rows)))[:most]
    return np.concatenate(rows)[chosen], np.concatenate(others)[chosen]


def two_sample_test(
    features: NDArray[Any],
    other_features: NDArray[Any],
    labels: NDArray[Any],
    exchanges: int,
    random: np.random.Generator,
) -> TwoSampleResult:
    """Test `features` against `other_features`, float32 [pairs, size] each; row i of both has the label i, int [pairs].

    The smallest possible p-value is 1 / (exchanges + 1).
    """
    pairs = len(labels)
    if pairs < 2:
        return TwoSampleResult(pairs, 0.0, 1.0)
    core = _core(features, other_features, labels)
    observed = float(core.sum())
    # In exact arithmetic, exchanging all pairs gives the same sum as none: rounding must not decide such ties.
    slack = 1e-5 * float(np.abs(core).sum())
    reached = 0
    for start in range(0, exchanges, _BLOCK):
        count = min(_BLOCK, exchanges - start)
        signs = (2 * random.integers(0, 2, (count, pairs), np.int8) - 1).astype(np.float32)
        reached += int((((signs @ core) * signs).sum(axis=1) >= observed - slack).sum())
    squared = observed / _comparable(labels)
    return TwoSampleResult(pairs, max(squared, 0.0) ** 0.5, (1 + reached) / (1 + exchanges))


def _core(features: NDArray[Any], others: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Return the core of the unbiased MMD² over pairs of pairs, float32 [pairs, pairs], 0 where classes differ.

    The MMD² is its mean over the entries beside the diagonal whose classes are equal. An exchange within pair i changes
    the sign of row i and of column i.
    """
    both = np.concatenate([features, others]).astype(np.float32)
    squares = np.einsum("ij,ij->i", both, both)
    distances = np.maximum(squares[:, None] + squares - 2 * (both @ both.T), 0)
    twice = np.concatenate([labels, labels])
    same = twice[:, None] == twice
    np.fill_diagonal(same, val=False)
    median = float(np.median(distances[same])) if same.any() else 0.0
    kernel = np.exp(-distances / (median or 1.0))
    n = len(labels)
    core = kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]
    core[~same[:n, :n]] = 0
    return core


def _comparable(labels: NDArray[Any]) -> int:
    """Return the number of ordered pairs of different rows with equal labels; at least 1."""
    counts = np.unique(labels, return_counts=True)[1].astype(np.int64)
    return max(1, int((counts * (counts - 1)).sum()))
