"""Decide, from the labels alone, which classes a dataset has and which split each archive row is in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Split
from jobs.prepare.groups import read_groups
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import ClassMap, LabelColumn, count_labels, map_classes
from jobs.prepare.made_test import choose_test, without_tested
from jobs.prepare.plan import DatasetPlan, require_test_rows
from jobs.prepare.row_files import RowFiles
from jobs.prepare.splits import TrainingRows, count_usable, write_known


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """The classes of a dataset, and the rows of each class in each split: int64 [len(classes.labels)].

    `excluded`: how many rows of the training archive were left out.
    """

    classes: ClassMap
    label_counts: Mapping[Split, NDArray[Any]]
    excluded: int

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

    `headers`, `plain`: of the label archives, by role. `excluded`: rows of the training archive to leave out,
    int64, increasing; those of a test split that is made of that archive stay.
    """
    config, archives, files = inputs.config, inputs.archives, RowFiles(scratch)
    training = LabelColumn(plain["train_labels"], headers["train_labels"], inputs.label_column)
    path = archives["train_labels"].path
    usable = count_usable(training, path, excluded)
    groups, left_out = None, excluded
    if config.groups:
        groups = read_groups(Path(config.groups), config.group_column, training.header.rows, scratch)
    if inputs.makes_test:
        test_rows, tested = choose_test(config, training, path, groups, plan.rows["test"])
        require_test_rows(len(test_rows))
        excluded = without_tested(excluded, test_rows)
        classes = map_classes(usable, tested, config.unseen_classes, path)
        write_known(training, classes, files, test_rows)
        left_out = np.union1d(excluded, test_rows)
        counts = count_usable(training, path, left_out)
    else:
        test_path = archives["test_labels"].path
        test = LabelColumn(plain["test_labels"], headers["test_labels"], inputs.label_column)
        tested = count_labels(test_path, (block for _, block in test.blocks()))
        classes = map_classes(usable, tested, config.unseen_classes, test_path)
        write_known(test, classes, files)
        counts = usable
    rows = TrainingRows(labels=training, counts=counts, left_out=left_out, groups=groups, makes_test=inputs.makes_test)
    by_split = rows.split(config, plan, files) | {"test": tested}
    return Assigned(
        classes=classes,
        label_counts={split: classes.counts(by_split[split]) for split in SPLITS},
        excluded=len(excluded),
    )
