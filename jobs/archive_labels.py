"""What the label archives of a data set hold, read before prepare: for plan and fetch, where that takes under a second.

Rows that `prepare.exclude` names count here, so prepare may still find that training lacks a label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from jobs.archive import role_of_key
from jobs.archive_headers import is_in_columns
from jobs.label_options import ONE_HOT, Column, UnseenClasses
from jobs.prepare import idx
from jobs.prepare.labels import NO_LABELS, LabelCounts, count_labels, labels_in, unseen_labels

QUICK_BYTES = 8 << 20  # of plain labels, all archives together: 0.2 to 0.6 s, on a core that others use, too


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
    role, or role and tag. Reads each archive up to the first other row. Raises IdxError for a damaged one.
    """
    if described is not None:
        return described
    in_columns = [key for key in _label_keys(paths) if is_in_columns(headers[key])]
    return ONE_HOT if in_columns and all(is_one_hot(paths[key], headers[key]) for key in in_columns) else 0


def is_one_hot(path: Path, header: idx.Header) -> bool:
    """Return whether each row of a label archive of two columns or more has one 1, and zeros."""
    if not header.rows or header.row_shape[0] < 2:
        return False
    return all(
        bool((((block == 0) | (block == 1)).all(axis=1) & (block.sum(axis=1) == 1)).all())
        for block in idx.read_blocks(path)
    )


def is_quick(paths: Mapping[str, Path], headers: Mapping[str, idx.Header]) -> bool:
    """Return whether the label archives are small enough to be read by the way."""
    return sum(headers[key].data_bytes for key in _label_keys(paths)) <= QUICK_BYTES


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
