"""What predictions are worth: pure functions of labels and probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MATRIX_CLASSES = 1000  # a matrix of 5,000 would take 276 MB of metrics.json and 2.8 GB of memory
_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Confusion:
    """A kind of error: `count` images of class `true` were predicted to be of class `predicted`."""

    true: int
    predicted: int
    count: int


def summarize(probabilities: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
    """Return the `test` object of metrics.json, JSON values only.

    `probabilities`: float32 [rows, classes], one row an image, rows > 0. `labels`: int [rows], each in [0, classes).
    A class that was never predicted has no precision, one without images no recall: both are None then. `confusion`
    counts images by true class (row) and predicted class (column); of more than 1,000 classes it is a list of
    [true, predicted, count] instead, of the pairs that occur.
    """
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    confusions = count_confusions(labels, predicted)
    count, right = len(labels), int((labels == predicted).sum())
    return {
        "accuracy": right / count,
        "errors": count - right,
        "count": count,
        "ci95": list(wilson_interval(right, count)),
        "loss": cross_entropy(probabilities, labels),
        "classes": per_class(labels, predicted, classes),
        "confusion": (to_matrix(confusions, classes) if classes <= _MATRIX_CLASSES else confusions).tolist(),
    }


def count_confusions(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """Count each pair of true and predicted class that occurs.

    `labels`, `predicted`: int [rows], from 0. Returns int64 [pairs, 3]: true, predicted, count; sorted. However many
    classes there are, it has at most a row for each image.
    """
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1).astype(np.int64), axis=0, return_counts=True)
    return np.column_stack([pairs, counts])


def to_matrix(confusions: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return counted pairs, as of `count_confusions`, as int64 [classes, classes]: rows true, columns predicted."""
    matrix = np.zeros((classes, classes), np.int64)
    matrix[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
    return matrix


def read_confusions(test: Mapping[str, Any]) -> NDArray[Any]:
    """Return the counted pairs, as of `count_confusions`, of a `test` object of metrics.json, which has either form."""
    confusion = np.array(test["confusion"], np.int64)
    if confusion.shape != (len(test["classes"]),) * 2:
        return confusion
    true, predicted = np.nonzero(confusion)
    return np.column_stack([true, predicted, confusion[true, predicted]])


def wilson_interval(successes: int, count: int, z: float = _Z95) -> tuple[float, float]:
    """Return the score interval of a proportion, 95 % unless `z` says otherwise; `count` > 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the
    normal approximation it keeps within [0, 1] and does not shrink to nothing where there are no errors.
    """
    p, z2 = successes / count, z * z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    # At p = 0 and p = 1 the interval ends there; rounding must not put it beside.
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def per_class(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> list[dict[str, Any]]:
    """Return label, precision, recall and support (how many images are of it) of each class, by label.

    `labels`, `predicted`: int [rows], in [0, classes).
    """
    support, guesses, right = (
        np.bincount(each, minlength=classes) for each in (labels, predicted, labels[labels == predicted])
    )
    return [
        {
            "label": label,
            "precision": _ratio(right[label], guesses[label]),
            "recall": _ratio(right[label], support[label]),
            "support": int(support[label]),
        }
        for label in range(classes)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None


def cross_entropy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean of −ln p(true class), in nats. Shapes as in `summarize`.

    A probability that float32 rounded to 0 counts as its smallest normal number, 1.2e-38, so that the mean is finite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def worst_confusions(confusions: NDArray[Any], limit: int) -> list[Confusion]:
    """Return the most frequent kinds of error, at most `limit`, most frequent first, then by label.

    `confusions`: as of `count_confusions`.
    """
    wrong = confusions[confusions[:, 0] != confusions[:, 1]]
    order = np.argsort(-wrong[:, 2], kind="stable")[:limit]
    return [Confusion(*row) for row in wrong[order].tolist()]


def worst_classes(classes: Sequence[Mapping[str, Any]], limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the classes of `per_class`; of more than `limit` those with the lowest recall, lowest first.

    A class without images has no recall and is not among these.
    """
    if len(classes) <= limit:
        return classes
    return sorted((each for each in classes if each["recall"] is not None), key=lambda each: each["recall"])[:limit]
