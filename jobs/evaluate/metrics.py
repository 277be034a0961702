"""What predictions are worth: pure functions of labels and probabilities."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Confusion:
    """A kind of error: `count` images of class `true` were predicted to be of class `predicted`."""

    true: int
    predicted: int
    count: int


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the `test` object of metrics.json, JSON values only.

    `probabilities`: float32 [rows, classes], one row an image, rows > 0. `labels`: int [rows], each in [0, classes).
    A class that was never predicted has no precision, one without images no recall: both are None then.
    """
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    count, right = int(confusion.sum()), int(confusion.trace())
    return {
        "accuracy": right / count,
        "errors": count - right,
        "count": count,
        "ci95": list(wilson_interval(right, count)),
        "loss": cross_entropy(probabilities, labels),
        "classes": per_class(confusion),
        "confusion": confusion.tolist(),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count each pair of true and predicted class.

    `labels`, `predicted`: int [rows], in [0, classes). Returns int64 [classes, classes], rows true, columns predicted.
    """
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


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


def per_class(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Return label, precision, recall and support (how many images are of it) of each class, by label.

    `confusion`: int [classes, classes], rows true, columns predicted.
    """
    right, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "label": label,
            "precision": _ratio(right[label], predicted[label]),
            "recall": _ratio(right[label], support[label]),
            "support": int(support[label]),
        }
        for label in range(len(confusion))
    ]


def _ratio(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of −ln p(true class), in nats. Shapes as in `summarize`.

    A probability that float32 rounded to 0 counts as its smallest normal number, 1.2e-38, so that the mean is finite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def worst_confusions(confusion: np.ndarray, limit: int) -> list[Confusion]:
    """Return the most frequent kinds of error, at most `limit`, most frequent first, then by label."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:limit]
    return [Confusion(int(true[i]), int(predicted[i]), int(wrong[true[i], predicted[i]])) for i in order]
