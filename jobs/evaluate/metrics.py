"""Compute the figures of predictions: pure functions of class numbers and probabilities.

Arrays have the dataset's class numbers (see `jobs.dataset`); metrics.json has the labels of the archives.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.evaluate.results import Predictions
from jobs.metrics import ClassMetrics, TestMetrics, UnseenClass, UnseenMetrics

_MATRIX_CLASSES = 1000  # a matrix of 5,000 classes would take 276 MB of metrics.json and 2.8 GB of memory
_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Confusion:
    """A kind of error: `count` images of class number `true` were predicted to be of class number `predicted`."""

    true: int
    predicted: int
    count: int


def summarize(predictions: Predictions, manifest: Manifest) -> TestMetrics:
    """Return the `test` object of metrics.json for predictions, rows > 0.

    Labels from `manifest.classes` on are of classes that the model does not know. `manifest`: of the dataset that the
    model was trained on.
    """
    labels, predicted = predictions.labels, predictions.predicted
    known = labels < manifest.classes
    count, correct = len(labels), int(predictions.correct.sum())
    return TestMetrics(
        accuracy=correct / count,
        errors=count - correct,
        count=count,
        ci95=wilson_interval(correct, count),
        loss=cross_entropy(predictions.true[known]) if known.any() else None,
        classes=tuple(per_class(labels, predicted, manifest)),
        unseen=_unseen(labels, correct, manifest),
        confusion=_as_written(count_confusions(labels, predicted), manifest).tolist(),
    )


def _unseen(labels: NDArray[Any], correct: int, manifest: Manifest) -> UnseenMetrics | None:
    unseen = labels[labels >= manifest.classes]
    if not len(unseen):
        return None
    counts = np.bincount(unseen).tolist()
    return UnseenMetrics(
        count=len(unseen),
        classes=tuple(
            UnseenClass(label=manifest.labels[number], name=manifest.class_names[number], count=counts[number])
            for number in range(manifest.classes, len(manifest.labels))
        ),
        accuracy_without=_ratio(correct, len(labels) - len(unseen)),
    )


def _as_written(confusions: NDArray[Any], manifest: Manifest) -> NDArray[Any]:
    """Return counted pairs in the form of `test.confusion`."""
    if manifest.classes <= _MATRIX_CLASSES:
        return to_matrix(confusions, len(manifest.labels), manifest.classes)
    by_number = np.array(manifest.labels, np.int64)
    return np.column_stack([by_number[confusions[:, :2]], confusions[:, 2]])


def count_confusions(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """Count each pair of true and predicted class that occurs.

    `labels`, `predicted`: int [rows], from 0. Returns int64 [pairs, 3]: true, predicted, count; sorted. Has at most one
    row per image, whatever the number of classes.
    """
    width = int(predicted.max(initial=0)) + 1
    pairs, counts = np.unique(labels.astype(np.int64) * width + predicted, return_counts=True)
    return np.column_stack([pairs // width, pairs % width, counts])


def to_matrix(confusions: NDArray[Any], rows: int, classes: int) -> NDArray[Any]:
    """Return counted pairs, as from `count_confusions`, as int64 [rows, classes]: rows true, columns predicted."""
    matrix = np.zeros((rows, classes), np.int64)
    matrix[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
    return matrix


def read_confusions(test: TestMetrics) -> NDArray[Any]:
    """Return counted pairs, as from `count_confusions`, from the `test` object of metrics.json.

    Its pairs have class numbers: see `classes_of`.
    """
    array = np.array(test.confusion, np.int64)
    if len(test.classes) <= _MATRIX_CLASSES:
        true, predicted = np.nonzero(array)
        return np.column_stack([true, predicted, array[true, predicted]])
    number = {each.label: number for number, each in enumerate(classes_of(test))}
    return np.array([(number[true], number[predicted], count) for true, predicted, count in array.tolist()])


def classes_of(test: TestMetrics) -> list[ClassMetrics | UnseenClass]:
    """Return all classes by class number: those that the model knows, then the unseen ones."""
    return [*test.classes, *(test.unseen.classes if test.unseen else ())]


def shown_names(test: TestMetrics) -> list[str]:
    """Return what a person reads for each class, by class number: its name, and its label where names are equal."""
    classes = classes_of(test)
    times = Counter(each.name for each in classes)
    return [each.name if times[each.name] == 1 else f"{each.name} ({each.label})" for each in classes]


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


def per_class(labels: NDArray[Any], predicted: NDArray[Any], manifest: Manifest) -> list[ClassMetrics]:
    """Return the figures of each class that the model knows, by class number. `labels`, `predicted`: int [rows]."""
    support, guesses, correct = (
        np.bincount(each, minlength=manifest.classes) for each in (labels, predicted, labels[labels == predicted])
    )
    return [
        ClassMetrics(
            label=manifest.labels[number],
            name=manifest.class_names[number],
            precision=_ratio(correct[number], guesses[number]),
            recall=_ratio(correct[number], support[number]),
            support=int(support[number]),
        )
        for number in range(manifest.classes)
    ]


def _ratio(count: int, whole: int) -> float | None:
    return int(count) / int(whole) if whole else None


def cross_entropy(true: NDArray[Any]) -> float:
    """Return the mean of −ln p, in nats, over the probabilities of the true classes: float32 [rows], rows > 0.

    A probability that float32 rounded to 0 counts as its smallest normal number, 1.2e-38, so that the mean is finite.
    """
    return float(-np.log(np.maximum(true.astype(np.float64), np.finfo(np.float32).tiny)).mean())


def worst_confusions(confusions: NDArray[Any], limit: int) -> list[Confusion]:
    """Return at most `limit` kinds of error, most frequent first, then by class number.

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
