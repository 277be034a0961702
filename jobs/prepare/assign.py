"""Decide, from the labels alone, which classes a dataset has and which split each archive row is in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.dataset import SPLITS, Split
from jobs.logs import log
from jobs.prepare.groups import read_groups
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import ClassMap, LabelColumn, count_labels, map_classes
from jobs.prepare.plan import DatasetPlan
from jobs.prepare.row_files import RowFiles
from jobs.prepare.splits import TrainingRows, count_usable, write_known


@dataclass(frozen=True)
class Assigned:
    """The classes of a dataset, and the rows of each class in each split: int64 [len(classes.labels)]."""

    classes: ClassMap
    label_counts: Mapping[Split, NDArray[Any]]

    @property
    def rows(self) -> dict[Split, int]:
        """Number of rows of each split."""
        return {split: int(counts.sum()) for split, counts in self.label_counts.items()}


def assign(
    inputs: Inputs,
    plan: DatasetPlan,
    headers: Mapping[str, Header],
    plain: Mapping[str, Path],
    excluded: NDArray[Any],
    scratch: Path,
) -> Assigned:
    """Write the rows of each split into `scratch`. Raises InputError for labels or groups that do not suffice.

    `headers`, `plain`: of the label archives, by role. `excluded`: rows of the training archive to leave out, int64.
    """
    config, archives, files = inputs.config, inputs.archives, RowFiles(scratch)
    training = LabelColumn(plain["train_labels"], headers["train_labels"], inputs.label_column)
    usable = count_usable(training, archives["train_labels"].path, excluded)
    groups = None
    if config.groups:
        groups = read_groups(Path(config.groups), config.group_column, training.header.rows, scratch)
    if inputs.makes_test:
        classes = ClassMap(usable.labels, len(usable.labels))
        log.info(
            "prepare: no test archive: %s rows of the training archive make the test split (%s)",
            f"{plan.rows['test']:,}", "stratified" if groups is None else "whole groups",
        )  # fmt: skip
    else:
        path = archives["test_labels"].path
        test = LabelColumn(plain["test_labels"], headers["test_labels"], inputs.label_column)
        tested = count_labels(path, (block for _, block in test.blocks()))
        classes = map_classes(usable, tested, config.unseen_classes, path)
        write_known(test, classes, files)
    rows = TrainingRows(labels=training, counts=usable, excluded=excluded, groups=groups)
    counts = rows.split(config, plan, inputs.makes_test, files)
    if not inputs.makes_test:
        counts["test"] = tested
    return Assigned(classes, {split: classes.counts(counts[split]) for split in SPLITS})
