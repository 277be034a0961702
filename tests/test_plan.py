"""The plan of a dataset: the split and shard of every archive row."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobs.dataset import SPLITS
from jobs.errors import InputError
from jobs.prepare.config import PrepareConfig
from jobs.prepare.plan import DatasetPlan, even_ranges, plan_dataset


@st.composite
def plans(draw: st.DrawFn) -> DatasetPlan:
    train = draw(st.integers(1, 400))
    config = PrepareConfig(
        validation_rows=draw(st.none() | st.integers(0, train - 1)),
        validation_from=draw(st.sampled_from(["first", "last", "spread"])),
        rows_per_shard=draw(st.none() | st.integers(1, 50)),
    )
    return plan_dataset(config, train, draw(st.integers(1, 100)), (3, 4))


@given(plans())
def test_splits_partition_the_archives_in_order(plan: DatasetPlan) -> None:
    rows = {split: plan.archive_rows(split, 0, plan.rows[split]) for split in SPLITS}
    both = np.concatenate([rows["train"], rows["validation"]])
    assert sorted(both.tolist()) == list(range(plan.train_archive_rows))
    assert rows["test"].tolist() == list(range(plan.test_rows))
    for each in rows.values():
        assert (np.diff(each) > 0).all()


@given(plans(), st.sampled_from(SPLITS), st.data())
def test_a_range_of_a_split_is_a_slice_of_the_split(plan: DatasetPlan, split: Any, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.rows[split]))
    stop = data.draw(st.integers(start, plan.rows[split]))
    whole = plan.archive_rows(split, 0, plan.rows[split])
    assert plan.archive_rows(split, start, stop).tolist() == whole[start:stop].tolist()


@given(plans())
def test_shards_cover_each_split_once_in_order_and_evenly(plan: DatasetPlan) -> None:
    paths = [shard.path for shard in plan.shards]
    assert len(set(paths)) == len(paths)
    for split in SPLITS:
        shards = [shard for shard in plan.shards if shard.split == split]
        bounds = [0, *(shard.stop for shard in shards)]
        assert [(shard.start, shard.stop) for shard in shards] == list(pairwise(bounds))
        assert bounds[-1] == plan.rows[split]
        sizes = {shard.rows for shard in shards}
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert not sizes or max(sizes) <= plan.rows_per_shard
        assert len(shards) == -(-plan.rows[split] // plan.rows_per_shard)  # no more files than needed
        assert [shard.path for shard in shards] == sorted(shard.path for shard in shards)


@given(st.integers(2, 400), st.data())
def test_spread_validation_rows_are_evenly_spaced(train: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(1, train - 1))
    plan = DatasetPlan(
        train_archive_rows=train, test_rows=1, validation_rows=held_out, validation_from="spread", rows_per_shard=10
    )
    gaps = np.diff(plan.archive_rows("validation", 0, held_out))
    assume(len(gaps))
    assert set(gaps) <= {train // held_out, -(-train // held_out)}


@pytest.mark.parametrize(
    ("where", "validation", "train"),
    [
        ("first", [0, 1, 2], [3, 4, 5, 6, 7, 8, 9]),
        ("last", [7, 8, 9], [0, 1, 2, 3, 4, 5, 6]),
        ("spread", [0, 3, 6], [1, 2, 4, 5, 7, 8, 9]),
    ],
)
def test_validation_from_decides_which_rows_are_held_out(where: Any, validation: list[int], train: list[int]) -> None:
    plan = plan_dataset(PrepareConfig(validation_rows=3, validation_from=where), 10, 1, (2, 2))
    assert plan.archive_rows("validation", 0, 3).tolist() == validation
    assert plan.archive_rows("train", 0, 7).tolist() == train


def test_mnist_is_split_as_in_the_lecture_into_equal_shards() -> None:
    plan = plan_dataset(PrepareConfig(), 60_000, 10_000, (28, 28))
    assert plan.rows == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert {shard.rows for shard in plan.shards} == {2_500}
    assert [sum(shard.split == split for shard in plan.shards) for split in SPLITS] == [22, 2, 4]
    assert plan.archive_rows("train", 0, 2).tolist() == [5_000, 5_001]


@pytest.mark.parametrize(
    ("row_shape", "rows"),
    [((28, 28), 2_500), ((32, 32, 3), 2_500), ((224, 224, 3), 55), ((4096, 4096, 3), 1)],
)
def test_large_images_make_shards_of_fewer_rows(row_shape: tuple[int, ...], rows: int) -> None:
    plan = plan_dataset(PrepareConfig(), 10_000, 100, row_shape)
    assert plan.rows_per_shard == rows
    assert rows == 1 or rows * np.prod(row_shape) * 4 <= 32 << 20


def test_rows_per_shard_overrides_the_size_of_the_images() -> None:
    assert plan_dataset(PrepareConfig(rows_per_shard=7), 10_000, 100, (4096, 4096, 3)).rows_per_shard == 7


@pytest.mark.parametrize("validation_rows", [10, 11])
def test_validation_must_leave_training_rows(validation_rows: int) -> None:
    with pytest.raises(InputError, match=rf"^prepare\.validation_rows: found {validation_rows}, expected fewer .* 10"):
        plan_dataset(PrepareConfig(validation_rows=validation_rows), 10, 5, (2, 2))


@pytest.mark.parametrize(("train", "test", "word"), [(0, 5, "training"), (5, 0, "test"), (0, 0, "training")])
def test_an_archive_without_rows_is_refused(train: int, test: int, word: str) -> None:
    with pytest.raises(InputError, match=f"^the {word} archive holds no rows, expected at least one"):
        plan_dataset(PrepareConfig(), train, test, (2, 2))


@given(st.integers(0, 1000), st.integers(1, 60))
def test_even_ranges_cover_all_rows_in_order_and_none_is_too_long(rows: int, target: int) -> None:
    ranges = even_ranges(rows, target)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in ranges]
    assert all(0 < size <= target for size in sizes)
