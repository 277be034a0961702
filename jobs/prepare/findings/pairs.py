"""Which image of a pair is a finding: the copies that could be left out.

One image of a group of equal images is kept. A test image is kept before any other, so that the test split stays as it
was published; then the row that comes first. Where labels contradict each other nobody knows which is correct: every
image of the group is a finding, but test images only if the contradiction is among test images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.digests import repeated
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


@dataclass(frozen=True, kw_only=True)
class Found:
    """All findings of a kind, in the order of the file: 24 bytes each, however many there are.

    `rows`, `others`: int64 [n]. `distances`: float64 [n]. Their meaning is that of `PairFinding`.
    """

    kind: Kind
    rows: NDArray[Any]
    others: NDArray[Any]
    distances: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of findings."""
        return len(self.rows)

    def first(self, most: int) -> list[PairFinding]:
        """Return the first findings, at most `most`."""
        columns = (column[:most].tolist() for column in (self.rows, self.others, self.distances))
        return [
            PairFinding(kind=self.kind, row=row, other=other, distance=distance)
            for row, other, distance in zip(*columns, strict=True)
        ]


def of_images(kind: Kind, rows: NDArray[Any], distances: NDArray[Any] | None = None) -> Found:
    """Return findings of single images, in the order given. `distances`: zeros if none are given."""
    return Found(
        kind=kind,
        rows=rows,
        others=np.full(len(rows), -1, np.int64),
        distances=np.zeros(len(rows)) if distances is None else distances.astype(np.float64),
    )


def equal_images(
    digests: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any], flat: NDArray[Any]
) -> tuple[Found, Found]:
    """Return the duplicates and the conflicts among images with equal pixels.

    `digests`: void [n]. `labels`: int [n]. `is_test`, `flat`: bool [n]. Of flat images only the value could be equal:
    they are a finding of their own.
    """
    duplicates, conflicts = [_NONE], [_NONE]
    for rows, groups in repeated(digests):
        here = ~flat[rows]  # of all images of a group, or of none
        if here.any():
            copies, contradictions = _judged(rows[here], groups[here], labels, is_test)
            duplicates.append(copies)
            conflicts.append(contradictions)
    return _in_order("duplicate", duplicates), _in_order("conflict", conflicts)


_NONE = np.empty((2, 0), np.int64)


def _in_order(kind: Kind, pieces: Sequence[NDArray[Any]]) -> Found:
    rows, others = np.concatenate(pieces, axis=1)
    order = np.argsort(rows)
    return Found(kind=kind, rows=rows[order], others=others[order], distances=np.zeros(len(rows)))


def _judged(
    rows: NDArray[Any], groups: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the duplicates and the conflicts in groups of equal images: row and other, int64 [2, n] each.

    `rows`: n ≥ 1, group by group. `groups`: the number of each row's group.
    """
    order = np.lexsort((rows, ~is_test[rows], groups))  # in each group, the one to keep comes first
    rows, groups = rows[order], groups[order]
    is_first = np.diff(groups, prepend=-1) != 0
    starts, group = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    kept, tested = rows[starts][group], is_test[rows]
    is_other = labels[rows] != labels[kept]
    first_other = np.minimum.reduceat(np.where(is_other, np.arange(len(rows)), len(rows)), starts)
    has_other = (first_other < len(rows))[group]
    among_test = np.logical_or.reduceat(is_other & tested, starts)[group]
    in_conflict = has_other & (~tested | among_test)
    # The first of another class than row r is the first of another class than the kept one, or the kept one.
    partner = np.where(is_other, kept, rows[np.minimum(first_other, len(rows) - 1)][group])
    is_copy = ~in_conflict & (rows != kept)
    return np.stack([rows[is_copy], kept[is_copy]]), np.stack([rows[in_conflict], partner[in_conflict]])


def near_images(
    pairs: NDArray[Any], distances: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any]
) -> tuple[Found, Found]:
    """Return near duplicates and near conflicts of pairs of nearly equal images.

    There is at most one for each row: that with its nearest partner.
    """
    findings = list(_nearest(pairs, distances, labels, is_test))

    def of_kind(kind: Kind) -> Found:
        chosen = [each for each in findings if each.kind == kind]
        return Found(
            kind=kind,
            rows=np.array([each.row for each in chosen], np.int64),
            others=np.array([each.other for each in chosen], np.int64),
            distances=np.array([each.distance for each in chosen], np.float64),
        )

    return of_kind("near-duplicate"), of_kind("near-conflict")


def _nearest(
    pairs: NDArray[Any], distances: NDArray[Any], labels: NDArray[Any], is_test: NDArray[Any]
) -> Iterator[PairFinding]:
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
