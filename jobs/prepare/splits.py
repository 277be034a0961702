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
from jobs.prepare.labels import ClassMap, LabelColumn, LabelCounts, count_labels
from jobs.prepare.plan import DatasetPlan
from jobs.prepare.row_files import RowFiles
from jobs.prepare.row_rules import (
    Rows,
    Rule,
    by_position,
    choose_groups,
    fold_of_groups,
    of_groups,
    shares,
    stratified,
    stratified_fold,
)

SplitCounts = dict[Split, LabelCounts]

_TEST, _VALIDATION = 0, 1  # salts, so that the two choices are independent


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows of a training archive that may be used.

    `labels`: all of the archive. `counts`: of the usable rows. `excluded`: increasing rows to leave out, int64.
    `groups`: number of each archive row's group from 0, int32; None if there are no groups.
    """

    labels: LabelColumn
    counts: LabelCounts
    excluded: NDArray[Any]
    groups: NDArray[Any] | None = None

    def split(self, config: PrepareConfig, plan: DatasetPlan, makes_test: bool, files: RowFiles) -> SplitCounts:
        """Write the rows of each split; return each split's LabelCounts. Raises InputError if the rows do not suffice.

        `makes_test`: whether the test split is made of these rows; else no test rows are written.
        """
        classes = ClassMap(self.counts.labels, len(self.counts.labels))
        choose = _Chooser(config, self.counts, self._group_sizes())
        test_rule = choose.test(plan.rows["test"]) if makes_test else None
        validation_rule = choose.validation(plan.rows["validation"])
        splits: tuple[Split, ...] = ("train", "validation", "test") if makes_test else ("train", "validation")
        counts = {split: np.zeros(len(classes.labels), np.int64) for split in splits}
        with files.writing(*splits) as writer:
            for archive_rows, rows in self._blocks(classes):
                is_test = test_rule(rows) if test_rule else np.zeros(len(rows), bool)
                is_held_out = np.zeros(len(rows), bool)
                is_held_out[~is_test] = validation_rule(rows.where(~is_test))
                masks = {"train": ~(is_test | is_held_out), "validation": is_held_out, "test": is_test}
                for split in splits:
                    writer.add(split, archive_rows[masks[split]])
                    counts[split] += np.bincount(rows.numbers[masks[split]], minlength=len(classes.labels))
        return {split: LabelCounts(classes.labels, counts[split]) for split in splits}

    def _blocks(self, classes: ClassMap) -> Iterator[tuple[NDArray[Any], Rows]]:
        """Yield archive rows, int64 [n], and their classes and groups, of usable rows in order."""
        for start, labels in self.labels.blocks():
            archive_rows = np.arange(start, start + len(labels))
            kept = ~np.isin(archive_rows, self.excluded)
            groups = np.zeros(len(labels), np.int32) if self.groups is None else self.groups[archive_rows]
            yield archive_rows[kept], Rows(classes.numbers(labels[kept]), groups[kept])

    def _group_sizes(self) -> NDArray[Any] | None:
        if self.groups is None:
            return None
        sizes = np.bincount(self.groups)
        np.subtract.at(sizes, self.groups[self.excluded], 1)
        return sizes


class _Chooser:
    """Makes the rules that choose the test rows, then the validation rows, of one training archive."""

    def __init__(self, config: PrepareConfig, counts: LabelCounts, group_sizes: NDArray[Any] | None) -> None:
        self._config, self._labels = config, counts.labels
        self._counts, self._sizes = counts.rows.copy(), group_sizes  # of the rows that are left

    def test(self, wanted: int) -> Rule:
        """Return the rule that makes the test split of about `wanted` rows."""
        if self._sizes is not None:
            _require_groups(self._sizes, 3, "a training, a validation and a test split")
            chosen = choose_groups(self._sizes, wanted, _TEST)
            self._sizes = np.where(chosen, 0, self._sizes)
            return of_groups(chosen)
        quotas = shares(self._counts, wanted)
        self._require("test", wanted, int(quotas.sum()), self._config.test_rows is not None)
        if not quotas.any():
            raise InputError(
                "the test split: found no test archive, and one image per class to make a test split of, expected "
                "more; fix: give test archives"
            )
        rule = stratified(self._labels, self._counts.copy(), quotas, _TEST)
        self._counts -= quotas
        return rule

    def validation(self, wanted: int) -> Rule:
        """Return the rule that holds out about `wanted` rows of those that are left."""
        kind, fold, total = self._config.validation_from, self._config.fold, int(self._counts.sum())
        if self._sizes is not None:
            folds = fold[1] if fold else 2
            purpose = f"{folds} folds" if fold else "a training and a validation split"
            _require_groups(self._sizes, folds, purpose)
            if fold:
                return of_groups(fold_of_groups(self._sizes, folds, _VALIDATION) == fold[0] - 1)
            return of_groups(choose_groups(self._sizes, wanted, _VALIDATION))
        if fold:
            return stratified_fold(self._labels, self._counts, fold[0] - 1, fold[1], _VALIDATION)
        if kind != "stratified":
            return by_position(kind, total, wanted)
        quotas = shares(self._counts, wanted)
        self._require("validation", wanted, int(quotas.sum()), self._config.validation_rows is not None)
        return stratified(self._labels, self._counts, quotas, _VALIDATION)

    def _require(self, split: str, wanted: int, possible: int, is_explicit: bool) -> None:
        """Raise InputError if rows that an option demands are not there; log if a default cannot be met."""
        if possible == wanted:
            return
        if is_explicit:
            raise InputError(
                f"prepare.{split}_rows: found {wanted}, expected at most {possible}, as each class keeps one row for "
                "training; fix: lower it"
            )
        log.warning("prepare: %d %s rows instead of %d: each class keeps one for training", possible, split, wanted)


def _require_groups(sizes: NDArray[Any], least: int, purpose: str) -> None:
    groups = int((sizes > 0).sum())
    if groups < least:
        raise InputError(
            f"prepare.groups: found {groups} groups, expected at least {least} for {purpose}; fix: give another file, "
            "or another prepare.group_column"
        )


def count_usable(labels: LabelColumn, archive: Path, excluded: NDArray[Any]) -> LabelCounts:
    """Count the labels of the rows of an archive that are not excluded."""
    return count_labels(
        archive,
        (block[~np.isin(np.arange(start, start + len(block)), excluded)] for start, block in labels.blocks()),
    )


def write_known(labels: LabelColumn, classes: ClassMap, files: RowFiles) -> None:
    """Write the rows of the test split: those of a test archive whose label has a class."""
    with files.writing("test") as writer:
        for start, block in labels.blocks():
            writer.add("test", start + np.flatnonzero(classes.numbers(block) >= 0))
