"""Plan which archive row goes to which shard: pure arithmetic, so `idxtrain plan` can show it in advance."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from jobs.dataset import SPLITS, Split, shard_path
from jobs.errors import InputError
from jobs.prepare.config import PrepareConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHARD_ROWS = 2500  # divides MNIST's 55,000, 5,000 and 10,000
_SHARD_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: rows [start, stop) of a split. `number`: of the shard within the split."""

    split: Split
    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def path(self) -> str:
        """Path in the dataset."""
        return shard_path(self.split, self.number)


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """How the rows of the training and the test pair are split and cut into shards."""

    train_archive_rows: int
    test_rows: int
    validation_rows: int
    validation_from: Literal["first", "last", "spread"]
    rows_per_shard: int

    @property
    def rows(self) -> dict[Split, int]:
        """Number of rows of each split."""
        return {
            "train": self.train_archive_rows - self.validation_rows,
            "validation": self.validation_rows,
            "test": self.test_rows,
        }

    @property
    def shards(self) -> list[ShardPlan]:
        """All shards: train, validation, test, each in row order. Rows of a split's shards differ by at most one."""
        return [
            ShardPlan(split=split, number=number, start=start, stop=stop)
            for split in SPLITS
            for number, (start, stop) in enumerate(even_ranges(self.rows[split], self.rows_per_shard))
        ]

    def archive_rows(self, split: Split, start: int, stop: int) -> "NDArray[Any]":
        """Return the archive rows of the split's rows [start, stop): int64 [stop − start], increasing."""
        import numpy as np

        rows = np.arange(start, stop)
        if split == "test":
            return rows
        total, held_out = self.train_archive_rows, self.validation_rows
        if self.validation_from == "first":
            return rows if split == "validation" else rows + held_out
        if self.validation_from == "last":
            return rows + (total - held_out) if split == "validation" else rows
        # Spread: validation row i is archive row ⌊i · total / held_out⌋; training gets the rest.
        validation = np.arange(held_out, dtype=np.int64) * total // max(held_out, 1)
        if split == "validation":
            return validation[start:stop]
        # The t-th row that is not in a sorted list is t + the number of listed rows before it.
        before = np.searchsorted(validation - np.arange(held_out), rows, side="right")
        return rows + before


def even_ranges(rows: int, target: int) -> list[tuple[int, int]]:
    """Cut [0, rows) into the fewest ranges of at most `target` rows, equal in size (± 1)."""
    count = -(-rows // target)
    bounds = [rows * i // count for i in range(count + 1)] if count else [0]
    return list(pairwise(bounds))


def plan_dataset(config: PrepareConfig, train_rows: int, test_rows: int, row_shape: Sequence[int]) -> DatasetPlan:
    """Plan a dataset from the archives' headers. Raises InputError if the options do not fit them."""
    for what, rows in (("training", train_rows), ("test", test_rows)):
        if rows == 0:
            raise InputError(
                f"the {what} archive holds no rows, expected at least one; fix: give archives with {what} images"
            )
    validation_rows = train_rows // 12 if config.validation_rows is None else config.validation_rows
    if validation_rows >= train_rows:
        raise InputError(
            f"prepare.validation_rows: found {validation_rows}, expected fewer than the training archive's "
            f"{train_rows} rows; fix: lower it"
        )
    row_bytes = 4 * prod(row_shape)
    rows_per_shard = config.rows_per_shard or min(_SHARD_ROWS, max(1, _SHARD_BYTES // row_bytes))
    return DatasetPlan(
        train_archive_rows=train_rows,
        test_rows=test_rows,
        validation_rows=validation_rows,
        validation_from=config.validation_from,
        rows_per_shard=rows_per_shard,
    )
