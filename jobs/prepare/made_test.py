"""Make a test split of training rows, for a data set without a test archive.

The choice depends on the whole archive, its groups and the number of rows alone. The list of rows to leave out has no
part in it: accuracies with and without that list are of the same images.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.logs import log
from jobs.prepare.config import PrepareConfig
from jobs.prepare.group_rules import GroupCounts, choose_groups, of_groups
from jobs.prepare.labels import ClassMap, LabelColumn, LabelCounts, count_labels
from jobs.prepare.row_rules import Rule, shares, stratified
from jobs.prepare.splits import blocks, counts_of_groups, require_groups, require_rows
from jobs.words import counted

_TEST = 0  # a salt


def choose_test(
    config: PrepareConfig, labels: LabelColumn, archive: Path, groups: NDArray[Any] | None, wanted: int
) -> tuple[NDArray[Any], LabelCounts]:
    """Return about `wanted` rows that make the test split, int64, increasing, and the counts of their labels.

    None of them if no class has a row to spare. `groups`: number of each row's group from 0, int32; None if there are
    no groups. Raises InputError, naming `archive` or an option, if there are fewer rows than the options demand, or too
    few groups.
    """
    counts = count_labels(archive, (block for _, block in labels.blocks()))
    classes = ClassMap(counts.labels, len(counts.labels))
    rule = _rule(config, archive, counts, counts_of_groups(labels, classes, groups), wanted)
    chosen, numbers = [], np.zeros(len(counts.labels), np.int64)
    for archive_rows, rows in blocks(labels, classes, groups):
        is_test = rule(rows)
        chosen.append(archive_rows[is_test])
        numbers += np.bincount(rows.numbers[is_test], minlength=len(numbers))
    if numbers.any():
        log.info(
            "prepare: no test archive: %s of %s %s the test split (%s)",
            counted(int(numbers.sum()), "row"), archive.name, "makes" if numbers.sum() == 1 else "make",
            "stratified" if groups is None else "whole groups",
        )  # fmt: skip
    return np.concatenate(chosen), LabelCounts(counts.labels[numbers > 0], numbers[numbers > 0])


def without_tested(excluded: NDArray[Any], test_rows: NDArray[Any]) -> NDArray[Any]:
    """Return the excluded rows but those of a made test split, which stay, with a warning. All int64, increasing."""
    left_out = np.setdiff1d(excluded, test_rows)
    if len(left_out) < len(excluded):
        log.warning("prepare: %s excluded rows are in the test split, and stay", f"{len(excluded) - len(left_out):,}")
    return left_out


def _rule(
    config: PrepareConfig, archive: Path, counts: LabelCounts, in_groups: GroupCounts | None, wanted: int
) -> Rule:
    if in_groups is not None:
        require_groups(in_groups, 3, "a training, a validation and a test split")
        return of_groups(choose_groups(in_groups, wanted, _TEST))
    quotas = shares(counts.rows, wanted)
    if quotas.any() or config.test_rows is not None:
        require_rows("test", wanted, int(quotas.sum()), config.test_rows is not None, archive.name)
    return stratified(counts.labels, counts.rows, quotas, _TEST)
