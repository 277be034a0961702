"""The plan of a dataset: how many rows each split and shard has, by headers alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
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
        rows_per_shard=draw(st.none() | st.integers(1, 50)),
    )
    return plan_dataset(config, train, draw(st.integers(1, 100)), (3, 4))


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


def test_mnist_is_cut_into_equal_shards_of_the_lectures_sizes() -> None:
    plan = plan_dataset(PrepareConfig(), 60_000, 10_000, (28, 28))
    assert plan.rows == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert plan.is_exact
    assert {shard.rows for shard in plan.shards} == {2_500}
    assert [sum(shard.split == split for shard in plan.shards) for split in SPLITS] == [22, 2, 4]


@pytest.mark.parametrize(
    ("rows", "per_shard"), [(40_000_000, 2_500), (70_000_000, 4_273), (1_000_000_000, 42_799)], ids=str
)
def test_a_large_dataset_has_longer_shards_and_enough_of_them_for_1024_ranks(rows: int, per_shard: int) -> None:
    plan = plan_dataset(PrepareConfig(validation_rows=0), rows, 1, (28, 28))
    assert plan.rows_per_shard == per_shard
    assert 1024 * 4 <= rows / per_shard <= 24_000


def test_without_a_test_archive_a_tenth_of_the_training_rows_make_the_test_split() -> None:
    assert plan_dataset(PrepareConfig(), 1_200, None, (2, 2)).rows == {"train": 980, "validation": 100, "test": 120}
    chosen = PrepareConfig(test_rows=300, validation_rows=0)
    assert plan_dataset(chosen, 1_200, None, (2, 2)).rows == {"train": 900, "validation": 0, "test": 300}
    with pytest.raises(InputError, match=r"^prepare\.test_rows: found 9, expected fewer than the 9 rows of the "):
        plan_dataset(PrepareConfig(test_rows=9), 9, None, (2, 2))


def test_folds_differ_by_at_most_one_row_and_cover_all() -> None:
    sizes = [
        plan_dataset(PrepareConfig(validation_from=f"fold:{number}/4"), 103, 10, (2, 2), excluded=1).rows
        for number in (1, 2, 3, 4)
    ]
    assert [each["validation"] for each in sizes] == [26, 26, 25, 25]
    assert {each["train"] + each["validation"] for each in sizes} == {102}


def test_a_plan_that_labels_or_groups_decide_is_not_exact() -> None:
    by_groups = PrepareConfig(validation_from="group", groups="g.csv")
    for config in (by_groups, PrepareConfig(unseen_classes="ignore")):
        assert not plan_dataset(config, 120, 10, (2, 2)).is_exact


def test_excluded_rows_do_not_change_the_size_of_a_made_test_split() -> None:
    plan = plan_dataset(PrepareConfig(), 1_200, None, (2, 2), excluded=600)
    assert plan.rows["test"] == 120
    assert not plan.is_exact  # those of the 600 that are in the test split stay
    assert plan_dataset(PrepareConfig(), 1_200, 10, (2, 2), excluded=600).is_exact


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


def test_more_folds_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"^prepare\.validation_from: found fold:1/11, expected at most one fold for"):
        plan_dataset(PrepareConfig(validation_from="fold:1/11"), 10, 5, (2, 2))


def test_an_exclusion_of_all_rows_is_refused() -> None:
    with pytest.raises(InputError, match=r"^prepare\.exclude: found all 10 rows of the training archive"):
        plan_dataset(PrepareConfig(), 10, 5, (2, 2), excluded=10)


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
