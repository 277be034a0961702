"""Compute the figures of predictions: pure functions of labels and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.metrics import ClassMetrics, TestMetrics

_MATRIX_CLASSES = 1000  # a matrix of 5,000 classes would take 276 MB of metrics.json and 2.8 GB of memory
_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Confusion:
    """A kind of error: `count` images of class `true` were predicted to be of class `predicted`."""

    true: int
    predicted: int
    count: int


def summarize(probabilities: NDArray[Any], labels: NDArray[Any]) -> TestMetrics:
    """Return the `test` object of metrics.json.

    `probabilities`: float32 [rows, classes], rows > 0. `labels`: int [rows], each in [0, classes).
    """
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    confusions = count_confusions(labels, predicted)
    count, correct = len(labels), int((labels == predicted).sum())
    return TestMetrics(
        accuracy=correct / count,
        errors=count - correct,
        count=count,
        ci95=wilson_interval(correct, count),
        loss=cross_entropy(probabilities, labels),
        classes=tuple(per_class(labels, predicted, classes)),
        confusion=(to_matrix(confusions, classes) if classes <= _MATRIX_CLASSES else confusions).tolist(),
    )


def count_confusions(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """Count each pair of true and predicted class that occurs.

    `labels`, `predicted`: int [rows], from 0. Returns int64 [pairs, 3]: true, predicted, count; sorted. Has at most one
    row per image, whatever the number of classes.
    """
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1).astype(np.int64), axis=0, return_counts=True)
    return np.column_stack([pairs, counts])


def to_matrix(confusions: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return counted pairs, as from `count_confusions`, as int64 [classes, classes]: rows true, columns predicted."""
    matrix = np.zeros((classes, classes), np.int64)
    matrix[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
    return matrix


def read_confusions(confusion: Sequence[Sequence[int]], classes: int) -> NDArray[Any]:
    """Return counted pairs, as from `count_confusions`, from `test.confusion` of metrics.json in either form."""
    array = np.array(confusion, np.int64)
    if array.shape != (classes, classes):
        return array
    true, predicted = np.nonzero(array)
    return np.column_stack([true, predicted, array[true, predicted]])


def wilson_interval(successes: int, count: int, z: float = _Z95) -> tuple[float, float]:
    """Return the score interval of a proportion, by default 95 %; `count` > 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the
    normal approximation it stays within [0, 1], and has a width even if there are no errors.
    """
    p, z2 = successes / count, z * z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    # At p = 0 and p = 1 the interval ends at p, which rounding must not exclude.
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def per_class(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> list[ClassMetrics]:
    """Return the figures of each class, by label. `labels`, `predicted`: int [rows], in [0, classes)."""
    support, guesses, correct = (
        np.bincount(each, minlength=classes) for each in (labels, predicted, labels[labels == predicted])
    )
    return [
        ClassMetrics(
            label=label,
            precision=_ratio(correct[label], guesses[label]),
            recall=_ratio(correct[label], support[label]),
            support=int(support[label]),
        )
        for label in range(classes)
    ]


def _ratio(count: int, whole: int) -> float | None:
    return int(count) / int(whole) if whole else None


def cross_entropy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean of −ln p(true class), in nats. Shapes as in `summarize`.

    A probability that float32 rounded to 0 counts as its smallest normal number, 1.2e-38, so that the mean is finite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def worst_confusions(confusions: NDArray[Any], limit: int) -> list[Confusion]:
    """Return at most `limit` kinds of error, most frequent first, then by label.

    `confusions`: as from `count_confusions`.
    """
    errors = confusions[confusions[:, 0] != confusions[:, 1]]
    order = np.argsort(-errors[:, 2], kind="stable")[:limit]
    return [Confusion(*row) for row in errors[order].tolist()]


def worst_classes(classes: Sequence[ClassMetrics], limit: int) -> Sequence[ClassMetrics]:
    """Return all classes if there are at most `limit`, else those with the lowest recall, lowest first.

    In the latter case classes without images, which have no recall, are left out.
    """
    if len(classes) <= limit:
        return classes
    with_recall = [(each.recall, each) for each in classes if each.recall is not None]
    return [each for _, each in sorted(with_recall, key=lambda pair: pair[0])[:limit]]
