"""Assign the rows of the archives to splits, before any image is read: only labels and groups decide."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Split
from jobs.errors import InputError
from jobs.logs import log
from jobs.prepare.config import PrepareConfig
from jobs.prepare.group_rules import GroupCounts, choose_groups, count_groups, fold_of_groups, of_groups
from jobs.prepare.labels import ClassMap, LabelColumn, LabelCounts, count_labels
from jobs.prepare.plan import DatasetPlan
from jobs.prepare.row_files import RowFiles
from jobs.prepare.row_rules import Rows, Rule, by_position, shares, stratified, stratified_fold
from jobs.words import counted

SplitCounts = dict[Split, LabelCounts]

_VALIDATION = 1  # a salt, other than that of `jobs.prepare.made_test`, so that the two choices are independent
_NOTHING = np.empty(0, np.int64)
_OTHER_GROUPS = "give another file, or another prepare.group_column"


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows of a training archive that make the training and the validation split.

    `labels`: all of the archive. `counts`: of the rows to use. `left_out`: increasing rows not to use, int64.
    `groups`: number of each archive row's group from 0, int32; None if there are no groups. `makes_test`: whether the
    rows left out include a test split.
    """

    labels: LabelColumn
    counts: LabelCounts
    left_out: NDArray[Any]
    groups: NDArray[Any] | None = None
    makes_test: bool = False

    def split(self, config: PrepareConfig, plan: DatasetPlan, files: RowFiles) -> SplitCounts:
        """Write the rows of both splits; return each split's LabelCounts. Raises InputError if rows do not suffice."""
        classes = ClassMap(self.counts.labels, len(self.counts.labels))
        in_groups = counts_of_groups(self.labels, classes, self.groups, self.left_out)
        if in_groups is not None:
            _require_groups_left(config, in_groups, makes_test=self.makes_test)
        rule = _validation_rule(config, self.counts, in_groups, plan.rows["validation"])
        splits: tuple[Split, ...] = ("train", "validation")
        counts = {split: np.zeros(len(classes.labels), np.int64) for split in splits}
        with files.writing(*splits) as writer:
            for archive_rows, rows in blocks(self.labels, classes, self.groups, self.left_out):
                is_held_out = rule(rows)
                for split, mask in zip(splits, (~is_held_out, is_held_out), strict=True):
                    writer.add(split, archive_rows[mask])
                    counts[split] += np.bincount(rows.numbers[mask], minlength=len(classes.labels))
        return {split: LabelCounts(classes.labels, counts[split]) for split in splits}


def blocks(
    labels: LabelColumn, classes: ClassMap, groups: NDArray[Any] | None, left_out: NDArray[Any] = _NOTHING
) -> Iterator[tuple[NDArray[Any], Rows]]:
    """Yield archive rows, int64 [n], and their classes and groups, of all rows but those left out, in order."""
    for start, block in labels.blocks():
        kept = _kept(start, len(block), left_out)
        archive_rows = start + np.flatnonzero(kept)
        of_rows = np.zeros(len(archive_rows), np.int32) if groups is None else groups[archive_rows]
        yield archive_rows, Rows(classes.numbers(block[kept]), of_rows)


def counts_of_groups(
    labels: LabelColumn, classes: ClassMap, groups: NDArray[Any] | None, left_out: NDArray[Any] = _NOTHING
) -> GroupCounts | None:
    """Return the rows of each class in each group, without those left out; None if there are no groups."""
    if groups is None:
        return None
    rows = (each for _, each in blocks(labels, classes, groups, left_out))
    return count_groups(rows, int(groups.max(initial=-1)) + 1, len(classes.labels))


def _validation_rule(config: PrepareConfig, counts: LabelCounts, in_groups: GroupCounts | None, wanted: int) -> Rule:
    """Return the rule that holds out about `wanted` rows. `counts`, `in_groups`: of the rows to choose from."""
    kind, fold = config.validation_from, config.fold
    if in_groups is not None:
        if fold:
            return of_groups(fold_of_groups(in_groups, fold[1], _VALIDATION) == fold[0] - 1)
        return of_groups(choose_groups(in_groups, wanted, _VALIDATION))
    if fold:
        return stratified_fold(counts.labels, counts.rows, fold[0] - 1, fold[1], _VALIDATION)
    if kind != "stratified":
        return by_position(kind, int(counts.rows.sum()), wanted)
    quotas = shares(counts.rows, wanted)
    require_rows("validation", wanted, int(quotas.sum()), config.validation_rows is not None)
    return stratified(counts.labels, counts.rows, quotas, _VALIDATION)


def _require_groups_left(config: PrepareConfig, in_groups: GroupCounts, *, makes_test: bool) -> None:
    """Raise InputError if training and validation have too few groups. `makes_test`: a test split has others."""
    least = config.fold[1] if config.fold else 2
    purpose = f"{least} folds" if config.fold else "a training and a validation split"
    if makes_test:
        require_groups(in_groups, least, purpose, where=" outside the test split", fix="lower prepare.test_rows")
    else:
        require_groups(in_groups, least, purpose)


def require_rows(split: Split, wanted: int, possible: int, is_explicit: bool, archive: str = "") -> None:
    """Raise InputError if rows that an option demands are not there; log if a default cannot be met.

    `archive`: the name of the one that they come from, if messages are to have it.
    """
    if possible == wanted:
        return
    of = f" of {archive}" if archive else ""
    if is_explicit:
        raise InputError(
            f"prepare.{split}_rows: found {wanted}, expected at most {possible}{of}, as each class keeps one row for "
            "training; fix: lower it"
        )
    rows = counted(possible, f"{split} row", "d")
    log.warning("prepare: %s%s instead of %d: each class keeps one for training", rows, of, wanted)


def require_groups(counts: GroupCounts, least: int, purpose: str, where: str = "", fix: str = _OTHER_GROUPS) -> None:
    """Raise InputError, with `fix`, if fewer than `least` groups have rows. `where`: which rows, if not all."""
    groups = int((counts.sizes > 0).sum())
    if groups < least:
        raise InputError(
            f"prepare.groups: found {counted(groups, 'group', 'd')}{where}, expected at least {least} for {purpose}; "
            f"fix: {fix}"
        )


def count_usable(labels: LabelColumn, archive: Path, left_out: NDArray[Any]) -> LabelCounts:
    """Count the labels of the rows of an archive but those left out: increasing, int64."""
    return count_labels(archive, (block[_kept(start, len(block), left_out)] for start, block in labels.blocks()))


def _kept(start: int, rows: int, left_out: NDArray[Any]) -> NDArray[Any]:
    """Return whether each of `rows` rows from `start` is not left out: bool [rows]."""
    kept = np.ones(rows, bool)
    first, end = np.searchsorted(left_out, [start, start + rows])
    kept[left_out[first:end] - start] = False
    return kept


def write_known(labels: LabelColumn, classes: ClassMap, files: RowFiles, rows: NDArray[Any] | None = None) -> None:
    """Write the rows of the test split: those of an archive whose label has a class.

    `rows`: of which it is made, increasing, int64; None for all of a test archive.
    """
    with files.writing("test") as writer:
        for start, block in labels.blocks():
            is_known = classes.numbers(block) >= 0
            if rows is not None:
                is_known &= ~_kept(start, len(block), rows)
            writer.add("test", start + np.flatnonzero(is_known))
