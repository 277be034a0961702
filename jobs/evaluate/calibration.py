"""Compute whether a model's confidence is the accuracy it has: pure functions of probabilities and class numbers.

Confidence is the probability of the predicted class. The expected calibration error (ECE) is the mean distance between
confidence and accuracy over bins of images of similar confidence, weighted by their images: Guo et al., "On calibration
of modern neural networks", ICML 2017, equation 3. Bins have equally many images, as nearly all confidences of a good
model are near 1: Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019, section 4.

Everything that is chosen, a temperature and a limit, is chosen on the validation split and measured on the test split.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.metrics import CalibrationMetrics, ReliabilityBin, SureMetrics

BINS = 15  # Guo et al. (2017), table 1
SURE = 0.999  # the precision of "sure"
_BLOCK = 10_000  # rows of float64 logits at once
_LEAST, _MOST = 0.02, 50.0  # temperatures; beyond them, the loss has no lowest point worth using


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the validation split; see `CalibrationMetrics` and `SureMetrics`. None: there is no choice."""

    temperature: float | None = None
    limit: float | None = None


def choose(probabilities: NDArray[Any], labels: NDArray[Any]) -> Chosen:
    """Return the choices for predictions on the validation split: float32 [rows, classes], int [rows]; rows ≥ 0."""
    if not len(labels):
        return Chosen()
    return Chosen(best_temperature(probabilities, labels), lowest_limit(probabilities, labels))


def calibration(
    confidence: NDArray[Any], tempered: NDArray[Any] | None, correct: NDArray[Any], chosen: Chosen
) -> CalibrationMetrics:
    """Return the `calibration` object of metrics.json for the test split.

    `confidence`: float32 [rows], rows > 0. `tempered`: the confidence with `chosen.temperature`, float64 [rows]; None
    without one. `correct`: bool [rows]; images of classes that the model does not know count as errors.
    """
    bins = reliability(confidence, correct)
    return CalibrationMetrics(
        bins=bins,
        ece=expected_error(bins),
        temperature=chosen.temperature,
        ece_with_temperature=None if tempered is None else expected_error(reliability(tempered, correct)),
        sure=None if chosen.limit is None else _sure(confidence, correct, chosen.limit),
    )


def reliability(confidence: NDArray[Any], correct: NDArray[Any]) -> tuple[ReliabilityBin, ...]:
    """Return at most 15 bins of equally many images (± 1) by confidence, float [rows], from low to high.

    `correct`: bool [rows], rows > 0. Images of equal confidence keep their order.
    """
    order = np.argsort(confidence, kind="stable")
    return tuple(
        ReliabilityBin(
            count=len(rows),
            confidence=float(confidence[rows].mean(dtype=np.float64)),
            accuracy=float(correct[rows].mean()),
        )
        for rows in np.array_split(order, min(BINS, len(order)))
    )


def expected_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Return the expected calibration error, in [0, 1]."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total


def with_temperature(probabilities: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Return softmax(logits / temperature), float64 [rows, classes], where softmax(logits) is `probabilities`."""
    scaled = _logits(probabilities) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normalized: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return normalized


def _logits(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Return logits up to a constant in each row. A probability that float32 rounded to 0 counts as its smallest."""
    logits: NDArray[Any] = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64))
    return logits


def best_temperature(probabilities: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Return the temperature of the lowest cross-entropy: Guo et al. (2017), section 4.2. Shapes as in `choose`.

    None if it would be below 0.02 or above 50. Without errors, for instance, a lower one is always better.
    """
    from scipy.optimize import brentq

    def slope(inverse: float) -> float:
        """Return the derivative of the loss by 1 / temperature: it rises, as the loss is convex."""
        slopes = np.empty(len(labels))
        for start in range(0, len(labels), _BLOCK):
            rows = slice(start, start + _BLOCK)
            slopes[rows] = loss_slopes(probabilities[rows], labels[rows], inverse)
        return float(slopes.mean())

    if slope(1 / _MOST) >= 0 or slope(1 / _LEAST) <= 0:
        return None
    return 1 / float(brentq(slope, 1 / _MOST, 1 / _LEAST, xtol=1e-4))


def loss_slopes(probabilities: NDArray[Any], labels: NDArray[Any], inverse: float) -> NDArray[Any]:
    """Return the derivative of each row's loss by 1 / temperature, at `inverse`: float64 [rows].

    Shapes as in `choose`. A row's figure does not depend on the rows beside it.
    """
    logits = _logits(probabilities)
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(inverse * logits)
    slopes: NDArray[Any] = (powers * logits).sum(axis=1) / powers.sum(axis=1) - logits[np.arange(len(labels)), labels]
    return slopes


def lowest_limit(probabilities: NDArray[Any], labels: NDArray[Any], precision: float = SURE) -> float | None:
    """Return the lowest confidence from which on at least `precision` of the predictions are correct.

    None if there is none. Shapes as in `choose`.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    above = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    is_last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)  # of those with equal confidence
    fit = np.flatnonzero(is_last & (above >= precision))
    return float(sorted_confidence[fit[-1]]) if len(fit) else None


def _sure(confidence: NDArray[Any], correct: NDArray[Any], limit: float) -> SureMetrics:
    is_sure = confidence >= np.float32(limit)
    count, errors = int(is_sure.sum()), int((is_sure & ~correct).sum())
    return SureMetrics(
        precision_on_validation=SURE,
        confidence=limit,
        count=count,
        share=count / len(correct),
        errors=errors,
        precision=(count - errors) / count if count else None,
    )
