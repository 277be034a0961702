"""The labels of an archive, and the number that each of them has as a class."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import InputError
from jobs.label_options import ONE_HOT, Column, UnseenClasses
from jobs.logs import log
from jobs.prepare import idx

MOST_CLASSES = 100_000  # more labels than that mean the wrong file or column
_BLOCK_BYTES = 16 << 20
_BLOCK_ROWS = 1 << 20  # limits what is computed from a block, ten times 8 bytes a row
_MOST_LISTED = 5  # labels in one line


@dataclass(frozen=True)
class LabelColumn:
    """The labels in a plain IDX file. `column`: where they are, in a file of several numbers per image (idx2)."""

    path: Path
    header: idx.Header
    column: Column

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the labels of rows [start, stop): int64 [stop − start]."""
        values = idx.read_rows(self.path, self.header, start, stop)
        return labels_in(values, self.column).astype(np.int64)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all labels in order, at most 16 MiB of the file at a time: first row, labels int64 [n]."""
        step = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // self.header.row_bytes))
        for start in range(0, self.header.rows, step):
            yield start, self.read(start, min(start + step, self.header.rows))


def labels_in(values: NDArray[Any], column: Column) -> NDArray[Any]:
    """Return the labels in rows of an archive, integers [n] or [n, columns]: [n]. One-hot rows are not checked."""
    if values.ndim == 1:
        return values
    return values.argmax(axis=1) if column == ONE_HOT else values[:, column]


@dataclass(frozen=True)
class LabelCounts:
    """The labels that occur, int64 [n], increasing, and the number of rows of each, int64 [n]."""

    labels: NDArray[Any]
    rows: NDArray[Any]

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        labels, position = np.unique(np.concatenate([self.labels, other.labels]), return_inverse=True)
        rows = np.zeros(len(labels), np.int64)
        np.add.at(rows, position, np.concatenate([self.rows, other.rows]))
        return LabelCounts(labels, rows)

    def without(self, labels: NDArray[Any]) -> "LabelCounts":
        """Return the counts of all labels but these."""
        is_other = ~np.isin(self.labels, labels)
        return LabelCounts(self.labels[is_other], self.rows[is_other])

    @property
    def total(self) -> int:
        """The number of rows of all labels."""
        return int(self.rows.sum())

    def __str__(self) -> str:
        listed = [f"{label} ({rows:,})" for label, rows in zip(self.labels, self.rows, strict=True)]
        return enumerated(listed)


NO_LABELS = LabelCounts(np.empty(0, np.int64), np.empty(0, np.int64))


def enumerated(texts: list[str]) -> str:
    """Return the first of some texts in one line, and how many more there are."""
    more = f" and {len(texts) - _MOST_LISTED:,} more" if len(texts) > _MOST_LISTED else ""
    return ", ".join(texts[:_MOST_LISTED]) + more


def count_labels(archive: Path, labels: Iterable[NDArray[Any]]) -> LabelCounts:
    """Count labels, integers in any number of pieces. Raises InputError, naming `archive`, for too many labels."""
    total = NO_LABELS
    for piece in labels:
        found, rows = np.unique(piece, return_counts=True)
        total += LabelCounts(found.astype(np.int64), rows)
        if len(total.labels) > MOST_CLASSES:
            raise InputError(
                f"{archive}: found more than {MOST_CLASSES:,} different labels, expected the label of a class per "
                "image; fix: give the label archive, or its label's column as prepare.label_column"
            )
    return total


@dataclass(frozen=True)
class ClassMap:
    """The classes of a dataset: `labels`, int64, by class number. The first `classes` of them occur in training.

    Those and the rest, which only the test split has, are in increasing order.
    """

    labels: NDArray[Any]
    classes: int

    def numbers(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return the class number of each label: int32, −1 for a label without a class."""
        order, by_label = self._sorted
        position = np.minimum(np.searchsorted(by_label, labels), len(by_label) - 1)
        return np.where(by_label[position] == labels, order[position], -1).astype(np.int32)

    @cached_property
    def _sorted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        order = np.argsort(self.labels)
        return order, self.labels[order]

    def counts(self, counts: LabelCounts) -> NDArray[Any]:
        """Return the rows of each class, int64 [len(labels)]; labels without a class are left out."""
        rows = np.zeros(len(self.labels), np.int64)
        numbers = self.numbers(counts.labels)
        rows[numbers[numbers >= 0]] = counts.rows[numbers >= 0]
        return rows

    def own_map(self, labels: NDArray[Any]) -> dict[int, int]:
        """Return the class number of each of these labels, −1 for none; empty if every label is its class number."""
        numbers = self.numbers(labels)
        if (numbers == labels).all():
            return {}
        return dict(zip(labels.tolist(), numbers.tolist(), strict=True))


def unseen_labels(training: LabelCounts, test: LabelCounts, unseen: UnseenClasses, test_labels: Path) -> LabelCounts:
    """Return the test labels that training lacks. `unseen`: what happens to them.

    Raises InputError, naming the archive `test_labels` with counts, if they are refused or if no other label is left.
    """
    lacking = test.without(training.labels)
    is_whole = len(lacking.labels) == len(test.labels) > 0
    if len(lacking.labels) and (unseen == "refuse" or (unseen == "ignore" and is_whole)):
        choice = "" if is_whole else ", or set prepare.unseen_classes=ignore (leave them out) or =count (as errors)"
        raise InputError(
            f"{test_labels}: found {lacking.total:,} of {test.total:,} rows with labels that training lacks: "
            f"{lacking}; expected labels of the training archive; fix: give archives of one data set{choice}"
        )
    return lacking


def map_classes(training: LabelCounts, test: LabelCounts, unseen: UnseenClasses, test_labels: Path) -> ClassMap:
    """Return the classes of a dataset. Raises InputError as `unseen_labels` does."""
    lacking = unseen_labels(training, test, unseen, test_labels)
    rows = lacking.total
    if not rows:
        return ClassMap(training.labels, len(training.labels))
    log.warning(
        "prepare: %s of the test rows %s labels that training lacks: %s; %s",
        f"{rows:,}", "has" if rows == 1 else "have", lacking,
        "left out" if unseen == "ignore" else "each counts as an error",
    )  # fmt: skip
    if unseen == "ignore":
        return ClassMap(training.labels, len(training.labels))
    return ClassMap(np.concatenate([training.labels, lacking.labels]), len(training.labels))


def class_names(classes: ClassMap, names: Mapping[int, str]) -> tuple[str, ...]:
    """Return the name of each class: that of its label in `names`, else the label."""
    return tuple(names.get(label, str(label)) for label in classes.labels.tolist())
