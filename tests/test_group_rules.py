"""The rules that hold out whole groups: near the wanted rows, each class near its share, some groups on each side."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.prepare.group_rules import GroupCounts, choose_groups, count_groups, fold_of_groups
from jobs.prepare.row_rules import Rows


def counts_of(table: NDArray[Any]) -> GroupCounts:
    """Return the counts of a table of rows [groups, classes]."""
    groups, numbers = (np.repeat(np.indices(table.shape)[axis].ravel(), table.ravel()) for axis in (0, 1))
    blocks = [Rows(*pair) for pair in zip(np.array_split(numbers, 3), np.array_split(groups, 3), strict=True)]
    return count_groups(blocks, *table.shape)


def of_one_class(sizes: list[int]) -> GroupCounts:
    return counts_of(np.array(sizes)[:, None])


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 1000))
def test_groups_are_counted_by_class_in_any_blocks(groups: int, classes: int, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 4, (groups, classes))
    counts = counts_of(table)
    assert counts.sizes.tolist() == table.sum(axis=1).tolist()
    for group in range(groups):
        numbers, rows = counts.of(group)
        assert dict(zip(numbers.tolist(), rows.tolist(), strict=True)) == {
            number: rows for number, rows in enumerate(table[group].tolist()) if rows
        }


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=30), st.data())
def test_groups_come_near_the_wanted_rows_and_some_remain_on_each_side(sizes: list[int], data: st.DataObject) -> None:
    rows = np.array(sizes)
    assume((rows > 0).sum() >= 2)
    total = data.draw(st.integers(1, int(rows.sum()) - 1))
    chosen = choose_groups(of_one_class(sizes), total, 1)
    assert 0 < rows[chosen].sum() < rows.sum()
    assert abs(int(rows[chosen].sum()) - total) <= rows.max()
    assert not choose_groups(of_one_class(sizes), 0, 1).any()


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(2, 6), st.integers(0, 1000), st.data())
def test_some_groups_of_any_classes_remain_on_each_side(
    groups: int, classes: int, seed: int, data: st.DataObject
) -> None:
    table = np.random.default_rng(seed).integers(0, 4, (groups, classes))
    assume((table.sum(axis=1) > 0).sum() >= 2)
    chosen = choose_groups(counts_of(table), data.draw(st.integers(1, int(table.sum()) - 1)), 1)
    assert 0 < table[chosen].sum() < table.sum()


def skewed(groups: int, seed: int) -> NDArray[Any]:
    """Return groups of 20 to 200 rows, each mostly of one or two of ten classes."""
    random = np.random.default_rng(seed)
    return np.array([
        random.multinomial(random.integers(20, 200), random.dirichlet(np.full(10, 0.1))) for _ in range(groups)
    ])  # fmt: skip


def deviation(table: NDArray[Any], chosen: NDArray[Any]) -> float:
    """Return the largest difference between a class's proportion in the chosen rows and in all: 0 to 1."""
    held_out, total = table[chosen].sum(axis=0), table.sum(axis=0)
    return float(np.abs(held_out / held_out.sum() - total / total.sum()).max())


@pytest.mark.parametrize("seed", range(4))
def test_chosen_groups_have_the_proportions_of_the_classes_although_each_group_is_skewed(seed: int) -> None:
    table = skewed(200, seed)
    chosen = choose_groups(counts_of(table), 1_900, 1)
    assert abs(int(table[chosen].sum()) - 1_900) < 60
    assert deviation(table, chosen) < 0.02  # a random choice of that many groups: 0.1 on average, and never below 0.04


def test_folds_of_groups_are_as_stratified_as_those_of_scikit_learn() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    table = skewed(60, 0)
    fold_of = fold_of_groups(counts_of(table), 4, 1)
    labels = np.concatenate([np.repeat(np.arange(10), rows) for rows in table])
    groups = np.repeat(np.arange(len(table)), table.sum(axis=1))
    splits = StratifiedGroupKFold(4).split(labels, labels, groups)
    reference = [deviation(table, np.isin(np.arange(len(table)), groups[test])) for _, test in splits]
    assert np.mean([deviation(table, fold_of == fold) for fold in range(4)]) < 1.2 * np.mean(reference)


def test_folds_of_many_groups_of_many_classes_take_time_by_the_classes_of_each_group() -> None:
    groups, classes = 2_000, 100_000
    counts = count_groups([Rows(np.arange(groups) % classes, np.arange(groups))], groups, classes)
    wide = GroupCounts(starts=counts.starts, numbers=counts.numbers + classes - groups, rows=counts.rows)
    started = time.process_time()
    assert np.bincount(fold_of_groups(wide, 5, 1)).tolist() == [400] * 5
    assert time.process_time() - started < 0.3


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=40), st.data())
def test_folds_of_groups_are_disjoint_and_balanced(sizes: list[int], data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, len(sizes)))
    fold_of = fold_of_groups(of_one_class(sizes), folds, 1)
    rows = np.bincount(fold_of, np.array(sizes), minlength=folds)
    assert (rows > 0).all()
    assert rows.max() - rows.min() <= max(sizes)


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 1000), st.data())
def test_no_fold_of_groups_is_empty(groups: int, classes: int, seed: int, data: st.DataObject) -> None:
    table = np.random.default_rng(seed).integers(0, 4, (groups, classes))
    table[:, 0] += 1
    folds = data.draw(st.integers(2, groups))
    assert (np.bincount(fold_of_groups(counts_of(table), folds, 1), minlength=folds) > 0).all()
