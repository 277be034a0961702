"""Which image of a pair is a finding: the copies that could be left out.

One image of a group of equal images is kept. A test image is kept before any other, so that the test split stays as it
was published; then the row that comes first. Where labels contradict each other nobody knows which is correct: every
image of the group is a finding, but test images only if the contradiction is among test images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.findings.finding import Kind


@dataclass(frozen=True, kw_only=True)
class PairFinding:
    """Row `row` is like row `other`, both counted through all splits; `other` is -1 if the finding is of one image.

    `distance`: of the two pictures; of an outlier, over the limit; of a nearly constant image, its spread.
    """

    kind: Kind
    row: int
    other: int
    distance: float = 0.0


def equal_images(
    digests: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any], flat: NDArray[Any]
) -> Iterator[PairFinding]:
    """Yield the findings of images with equal pixels. `digests`: void [n]. `is_test`, `flat`: bool [n].

    Of flat images only the value could be equal: they are a finding of their own.
    """
    _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero((counts[inverse] > 1) & ~flat)
    order = repeated[np.lexsort((repeated, inverse[repeated]))]
    for group in np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1):
        if len(group):
            yield from _of_group(group, labels, is_test)


def _of_group(group: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any]) -> Iterator[PairFinding]:
    """`group`: rows of equal images, increasing."""
    group = group[np.argsort(~is_test[group], kind="stable")]
    kept = int(group[0])
    others = group[labels[group] != labels[kept]]  # the first of another class than row r is others[0] or kept
    among_test = len(set(labels[group[is_test[group]]].tolist())) > 1
    for row in map(int, group):
        if len(others) and (not is_test[row] or among_test):
            other = int(others[0]) if labels[row] == labels[kept] else kept
            yield PairFinding(kind="conflict", row=row, other=other)
        elif row != kept:
            yield PairFinding(kind="duplicate", row=row, other=kept)


def near_images(
    pairs: NDArray[Any], distances: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any]
) -> Iterator[PairFinding]:
    """Yield the findings of pairs of nearly equal images, at most one for each row: that with its nearest partner."""
    nearest: dict[int, PairFinding] = {}
    for (first, second), distance in zip(pairs.tolist(), distances.tolist(), strict=True):
        if is_test[first] and not is_test[second]:
            first, second = second, first
        is_conflict = labels[first] != labels[second]
        # `second` is the later row, or the one in the training archive.
        flagged = [second] if is_test[first] == is_test[second] else [first]
        if is_conflict and is_test[first] == is_test[second]:
            flagged = [first, second]
        for row in flagged:
            kind: Kind = "near-conflict" if is_conflict else "near-duplicate"
            other = first if row == second else second
            finding = PairFinding(kind=kind, row=row, other=other, distance=distance)
            known = nearest.get(row)
            if known is None or (distance, other) < (known.distance, known.other):
                nearest[row] = finding
    yield from (nearest[row] for row in sorted(nearest))
