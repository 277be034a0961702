"""Plan how many rows each split and shard has, by headers alone, so that `idxtrain plan` can show it in advance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from jobs.dataset import SPLITS, Split, shard_path
from jobs.errors import InputError
from jobs.prepare.config import PrepareConfig
from jobs.words import counted

_SHARD_ROWS = 2500  # divides MNIST's 55,000, 5,000 and 10,000
_SHARD_BYTES = 32 << 20  # of float32
# Of more rows than fit into this many shards, 16 for each of 1,024 ranks, the shards are longer: a billion rows would
# be 400,000 files otherwise. Four times the bytes still are little beside an executor's 1 GB.
_MOST_SHARDS = 16 * 1024
_LONG_SHARD_BYTES = 4 * _SHARD_BYTES


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
    """How many rows each split has, and how they are cut into shards.

    `is_exact`: false where labels or groups, which headers do not have, decide the sizes; they are then near these.
    """

    rows: Mapping[Split, int]
    rows_per_shard: int
    is_exact: bool = True

    @property
    def shards(self) -> list[ShardPlan]:
        """All shards: train, validation, test, each in row order. Rows of a split's shards differ by at most one."""
        return [
            ShardPlan(split=split, number=number, start=start, stop=stop)
            for split in SPLITS
            for number, (start, stop) in enumerate(even_ranges(self.rows[split], self.rows_per_shard))
        ]

    def shard_rows(self, split: Split) -> tuple[int, ...]:
        """Return the rows of each shard of a split, in row order."""
        return tuple(stop - start for start, stop in even_ranges(self.rows[split], self.rows_per_shard))

    def with_rows(self, rows: Mapping[Split, int]) -> "DatasetPlan":
        """Return the plan for the rows that the splits really have."""
        return replace(self, rows=dict(rows), is_exact=True)


def even_ranges(rows: int, target: int) -> list[tuple[int, int]]:
    """Cut [0, rows) into the fewest ranges of at most `target` rows, equal in size (± 1)."""
    count = -(-rows // target)
    bounds = [rows * i // count for i in range(count + 1)] if count else [0]
    return list(pairwise(bounds))


def plan_dataset(
    config: PrepareConfig,
    train_rows: int,
    test_rows: int | None,
    row_shape: Sequence[int],
    excluded: int = 0,
    archive: str = "the training archive",
) -> DatasetPlan:
    """Plan a dataset from the archives' headers. Raises InputError if the options do not fit them.

    `test_rows`: None if there is no test archive, so that training rows make the test split; too few of them make none,
    unless `prepare.test_rows` demands some: see `require_test_rows`. `excluded`: rows of the training archive that are
    to be left out; those in a made test split stay. `archive`: the training archive's name in messages.
    """
    for what, rows in (("training", train_rows), ("test", test_rows)):
        if rows == 0:
            raise InputError(
                f"the {what} archive holds no rows, expected at least one; fix: give archives with {what} images"
            )
    usable = train_rows - excluded
    if usable < 1:
        raise InputError(
            f"prepare.exclude: found all {counted(train_rows, 'row', 'd')} of {archive}, expected some to train on; "
            "fix: give a shorter list"
        )
    made = _made_test_rows(config, train_rows, usable, archive) if test_rows is None else 0
    held_out = _validation_rows(config, usable, usable - made, archive)
    by_headers = config.validation_from != "group" and not config.groups and config.unseen_classes != "ignore"
    is_exact = by_headers and not (excluded and made)  # which of the excluded rows are in a made test split, and stay?
    return DatasetPlan(
        rows={"train": usable - made - held_out, "validation": held_out, "test": made or test_rows or 0},
        rows_per_shard=config.rows_per_shard or _rows_per_shard(usable + (test_rows or 0), 4 * prod(row_shape)),
        is_exact=is_exact,
    )


def plan_segment(
    config: PrepareConfig,
    rows: int,
    row_shape: Sequence[int],
    excluded: int = 0,
    archive: str = "the training archive",
    *,
    is_test: bool = False,
    makes_test: bool = False,
) -> DatasetPlan:
    """Plan one of several archive pairs, whose shards are its own; the parameters are those of `plan_dataset`.

    `rows`: of the pair. `is_test`: it is the test pair. `makes_test`: its rows make a test split, as no pair is one.
    Raises InputError if the options do not fit.
    """
    if is_test:
        config = config.model_copy(update={"validation_rows": 0, "validation_from": "first"})
    # The pair's shards depend on it alone: on its size, not on that of the test pair.
    plan = plan_dataset(config, rows, None if makes_test else rows, row_shape, excluded, archive)
    of_training: tuple[Split, ...] = SPLITS if makes_test else ("train", "validation")
    used = ("test",) if is_test else of_training
    return replace(plan, rows={split: count if split in used else 0 for split, count in plan.rows.items()})


def _rows_per_shard(rows: int, row_bytes: int) -> int:
    """Return the rows of a shard of a dataset. `row_bytes`: of its float32 images."""
    usual, most = (max(1, size // row_bytes) for size in (_SHARD_BYTES, _LONG_SHARD_BYTES))
    return max(min(_SHARD_ROWS, usual), min(most, -(-rows // _MOST_SHARDS)))


def require_test_rows(rows: int) -> None:
    """Raise InputError if training archives, all together, give no rows to a test split that is made of them."""
    if not rows:
        raise InputError(
            "the test split: found no test archive, and too few training images to make one of, expected some class "
            "of two or more; fix: give test archives"
        )


def _made_test_rows(config: PrepareConfig, train_rows: int, usable: int, archive: str) -> int:
    """Return the rows of the test split that is made of all training rows, so that excluded rows do not change it."""
    rows = config.test_rows or max(1, train_rows // 10)
    if rows < usable:
        return rows
    if config.test_rows is None:
        return 0
    raise InputError(
        f"prepare.test_rows: found {rows}, expected fewer than the {counted(usable, 'row', 'd')} of {archive}, of "
        "which the test split is made; fix: lower it, or give test archives"
    )


def _validation_rows(config: PrepareConfig, usable: int, left: int, archive: str) -> int:
    """Return the rows to hold out. `usable`: rows of the training archive, of which `left` are not in a made test."""
    if config.fold:
        number, folds = config.fold
        if folds > left:
            raise InputError(
                f"prepare.validation_from: found {config.validation_from}, expected at most one fold for each of "
                f"{counted(left, 'row', 'd')}; fix: give fewer folds"
            )
        return len(range(number - 1, left, folds))
    rows = usable // 12 if config.validation_rows is None else config.validation_rows
    if rows >= left:
        raise InputError(
            f"prepare.validation_rows: found {rows}, expected fewer than the {counted(left, 'row', 'd')} of {archive}; "
            "fix: lower it"
        )
    return rows
