"""What the label archives of a data set hold, read before prepare: for plan and fetch.

Classes are counted where that takes under a second; whether labels in columns are one-hot is read from any archive.

Rows that `prepare.exclude` names count here, so prepare may still find that training lacks a label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from jobs.archive import role_of_key
from jobs.archive_headers import is_in_columns
from jobs.errors import InputError
from jobs.label_options import ONE_HOT, Column, UnseenClasses
from jobs.prepare import idx
from jobs.prepare.labels import NO_LABELS, LabelCounts, count_labels, labels_in, unseen_labels

SMALL_BYTES = 8 << 20  # of plain labels, all archives together: 0.2 to 0.6 s, on a core that others use, too


@dataclass(frozen=True, kw_only=True)
class ArchiveLabels:
    """The labels of all training archives and of the test archive, which has none if there is no test archive.

    `lacking`: the test labels that training lacks.
    """

    training: LabelCounts
    test: LabelCounts
    lacking: LabelCounts


def column_in(paths: Mapping[str, Path], headers: Mapping[str, idx.Header], described: int | None) -> Column:
    """Return where the label is in archives of several columns. `described`: what options or a description say.

    If they say nothing, it is one-hot where every row of all these archives is, else column 0. `paths`, `headers`: by
    role, or role and tag. Reads archives of any size, each up to the first number that is neither 0 nor 1. Raises
    InputError where only some of the archives, or most rows of one, are one-hot, and IdxError for a damaged one.
    """
    if described is not None:
        return described
    keys = [key for key in _label_keys(paths) if is_in_columns(headers[key]) and headers[key].rows]
    found = {paths[key]: one_hot_rows(paths[key], headers[key]) for key in keys}
    whole = [path for path, each in found.items() if each.other is None]
    for path, each in found.items():
        if each.other is not None and (whole or each.are_most):
            raise InputError(
                f"{path}: found row {each.other} (from 0) not one-hot, expected one 1 and zeros as in "
                f"{whole[0].name if whole else 'most rows'}; fix: correct it, or set prepare.label_column"
            )
    return ONE_HOT if whole else 0


@dataclass(frozen=True, kw_only=True)
class OneHotRows:
    """Which rows of a label archive are one-hot, with one 1 and zeros. `other`: the first that is not; None without.

    `are_most`: all numbers are 0 or 1, in three columns or more, and more than half of the rows are one-hot.
    """

    other: int | None
    are_most: bool


def one_hot_rows(path: Path, header: idx.Header) -> OneHotRows:
    """Return which rows of an archive of labels in columns are one-hot. In a single column, none is."""
    columns, other, one_hot, start = header.row_shape[0], None, 0, 0
    for block in idx.read_blocks(path):
        is_binary = ((block == 0) | (block == 1)).all(axis=1)
        is_one_hot = is_binary & (block.sum(axis=1) == 1) & (columns > 1)
        if other is None and not is_one_hot.all():
            other = start + int(is_one_hot.argmin())
        if not is_binary.all():
            return OneHotRows(other=other, are_most=False)
        one_hot, start = one_hot + int(is_one_hot.sum()), start + len(block)
    return OneHotRows(other=other, are_most=columns > 2 and 2 * one_hot > header.rows)


def is_small(paths: Mapping[str, Path], headers: Mapping[str, idx.Header]) -> bool:
    """Return whether the label archives are small enough to be counted before prepare."""
    return sum(headers[key].data_bytes for key in _label_keys(paths)) <= SMALL_BYTES


def read_labels(paths: Mapping[str, Path], column: Column, unseen: UnseenClasses) -> ArchiveLabels:
    """Return the labels of archives, which are by role, or role and tag.

    Raises InputError as prepare would for test labels that training lacks, and for a damaged archive.
    """
    counts = {key: _count(paths[key], column) for key in _label_keys(paths)}
    training = reduce(LabelCounts.__add__, [each for key, each in counts.items() if key.startswith("train")], NO_LABELS)
    test = counts.get("test_labels", NO_LABELS)
    lacking = unseen_labels(training, test, unseen, paths["test_labels"]) if test.total else NO_LABELS
    return ArchiveLabels(training=training, test=test, lacking=lacking)


def _label_keys(keys: Mapping[str, object]) -> list[str]:
    return [key for key in keys if role_of_key(key).endswith("labels")]


def _count(path: Path, column: Column) -> LabelCounts:
    return count_labels(path, (labels_in(block, column) for block in idx.read_blocks(path)))
