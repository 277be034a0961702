"""What is kept of the predictions: a few numbers per image, so that a million images take 32 MB."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.calibration import with_temperature

MERGE_BYTES = 80  # of memory for each image: 32 of `Predictions`, and while they are sorted and counted as much again

# From rows of a split to their images, float32 [rows, height, width, channels] in [0, 1].
ImagesOf = Callable[[Sequence[int]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The labels of a split and the model's predictions, one row per image, in the order of the split.

    `labels`: int32 [rows], class numbers. `indices`: int64 [rows], the row in the archive. `predicted`: int32 [rows],
    class numbers. `confidence`: float32 [rows], the probability of the predicted class. `true`: float32 [rows], that of
    the true class; 0 where the model does not know it. `tempered`: float64 [rows], the confidence with a temperature;
    None without one.
    """

    labels: NDArray[Any]
    indices: NDArray[Any]
    predicted: NDArray[Any]
    confidence: NDArray[Any]
    true: NDArray[Any]
    tempered: NDArray[Any] | None = None

    @property
    def correct(self) -> NDArray[Any]:
        """Whether each image was predicted correctly, bool [rows]."""
        return np.asarray(self.predicted == self.labels)


def collect(
    labels: NDArray[Any], indices: NDArray[Any], blocks: Iterable[NDArray[Any]], temperature: float | None = None
) -> Predictions:
    """Return the predictions for images of these labels and indices, int [rows] each.

    `blocks`: the probabilities, float32 [some rows, classes] each, in row order. `temperature`: for `tempered`.
    """
    predicted, confidence, true = (np.empty(len(labels), kind) for kind in (np.int32, np.float32, np.float32))
    tempered = None if temperature is None else np.empty(len(labels), np.float64)
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        predicted[rows], confidence[rows] = block.argmax(axis=1), block.max(axis=1)
        true[rows] = _of_true_class(block, labels[rows])
        if temperature is not None and tempered is not None:
            tempered[rows] = with_temperature(block, temperature).max(axis=1)
        start = rows.stop
    return Predictions(
        labels=labels, indices=indices, predicted=predicted, confidence=confidence, true=true, tempered=tempered
    )


def _of_true_class(probabilities: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    true = np.zeros(len(labels), np.float32)
    known = np.flatnonzero(labels < probabilities.shape[1])
    true[known] = probabilities[known, labels[known]]
    return true
