"""Confident learning: which given labels are probably incorrect, by predictions that never saw the row.

Source: C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70 (2021), sections 3.1 (the confident joint) and 3.2 (pruning by noise rate).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on each row.

    `suggested`: int64 [n], the most probable class other than the given one. `margin`: float64 [n] in [-1, 1], the
    suggested class's probability minus the given one's. `suspect`: bool [n]. `joint`: float64 [classes, classes], the
    estimated number of rows by given (row) and true class (column).
    """

    suggested: NDArray[Any]
    margin: NDArray[Any]
    suspect: NDArray[Any]
    joint: NDArray[Any]

    def ranked(self) -> NDArray[Any]:
        """Return all rows, most suspicious first, then in row order: int64 [n]."""
        return np.lexsort((np.arange(len(self.margin)), -self.margin))


def judge(probabilities: NDArray[Any], given: NDArray[Any]) -> Verdict:
    """Return the verdict on labels `given`, int [n], by out-of-sample probabilities, float [n, classes].

    From each cell (given i, true j) of the estimated joint, as many rows are suspects as the joint counts there: those
    of label i with the largest margin of class j over class i ("prune by noise rate"). A row must also be predicted
    as another class.
    """
    rows = np.arange(len(given))
    own = probabilities[rows, given].astype(np.float64)
    others = probabilities.astype(np.float64)
    others[rows, given] = -np.inf
    suggested = others.argmax(axis=1)
    margin = others[rows, suggested] - own
    joint = _calibrated(_confident_joint(probabilities, given), np.bincount(given, minlength=probabilities.shape[1]))
    suspect = np.zeros(len(given), bool)
    counts = np.round(joint).astype(np.int64)
    np.fill_diagonal(counts, 0)
    for i in np.flatnonzero(counts.any(axis=1)):
        of_class = np.flatnonzero(given == i)
        for j in np.flatnonzero(counts[i]):
            margins = probabilities[of_class, j].astype(np.float64) - probabilities[of_class, i]
            suspect[of_class[np.lexsort((of_class, -margins))][: counts[i, j]]] = True
    return Verdict(suggested=suggested, margin=margin, suspect=suspect & (margin > 0), joint=joint)


def _confident_joint(probabilities: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """Count rows by given class and by the class they confidently belong to: int64 [classes, classes].

    A row belongs to the most probable of the classes whose probability reaches that class's threshold: its mean over
    the rows with that label (equations 1 and 2). A class without a row has no threshold.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(given, minlength=classes)
    sums = np.bincount(given, probabilities[np.arange(len(given)), given], minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    above = np.where(probabilities >= thresholds, probabilities, -np.inf)
    confident = np.isfinite(above).any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (given[confident], above[confident].argmax(axis=1)), 1)
    return joint


def _calibrated(joint: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Scale each row of the joint to the number of rows with that label (equation 3)."""
    sums = joint.sum(axis=1)
    return joint * (counts / np.maximum(sums, 1))[:, None]
