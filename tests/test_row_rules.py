"""The rules that hold out rows: disjoint, exact in number, each class its share."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.prepare.row_rules import (
    Rows,
    Rule,
    by_position,
    shares,
    stratified,
    stratified_fold,
)

Classes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@st.composite
def classes(draw: st.DrawFn) -> Classes:
    """Draw the labels and counts of some classes, int64 [classes], and the class of each row in any order."""
    counts = np.array(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)), np.int64)
    labels = np.array(sorted(draw(st.sets(st.integers(-500, 500), min_size=len(counts), max_size=len(counts)))))
    order = np.random.default_rng(draw(st.integers(0, 1000))).permutation(counts.sum())
    return labels, counts, np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]


def held_out(rule: Rule, numbers: NDArray[Any], pieces: int = 1) -> NDArray[Any]:
    """Apply a rule to rows in that many blocks; return the mask of all rows."""
    return np.concatenate([rule(Rows(block, block)) for block in np.array_split(numbers, pieces)])


@settings(deadline=None)
@given(st.integers(1, 400), st.data(), st.sampled_from(["first", "last", "spread"]), st.integers(1, 4))
def test_a_rule_by_position_holds_out_as_many_rows_as_asked(
    total: int, data: st.DataObject, kind: str, pieces: int
) -> None:
    wanted = data.draw(st.integers(0, total - 1))
    rows = np.flatnonzero(held_out(by_position(kind, total, wanted), np.zeros(total, np.int32), pieces))
    assert len(rows) == wanted
    if kind == "spread":
        assert rows.tolist() == [i * total // wanted for i in range(wanted)]
    else:
        assert rows.tolist() == list(range(wanted) if kind == "first" else range(total - wanted, total))


@settings(deadline=None)
@given(classes(), st.data())
def test_each_class_gives_its_share_and_keeps_a_row(drawn: Classes, data: st.DataObject) -> None:
    _, counts, _ = drawn
    total = data.draw(st.integers(0, int(counts.sum()) - 1))
    quotas = shares(counts, total)
    assert quotas.sum() == min(total, (counts - 1).sum())
    assert (quotas < counts).all()
    ideal = counts * total / counts.sum()
    if (counts > ideal + 1).all():  # no class is too small for its share
        assert (np.abs(quotas - ideal) < 1).all()


@settings(deadline=None)
@given(classes(), st.data(), st.integers(1, 4))
def test_stratified_rows_are_exactly_the_quotas_and_the_same_in_any_blocks(
    drawn: Classes, data: st.DataObject, pieces: int
) -> None:
    labels, counts, numbers = drawn
    quotas = shares(counts, data.draw(st.integers(0, int(counts.sum()) - 1)))
    mask = held_out(stratified(labels, counts, quotas, 1), numbers, pieces)
    assert np.bincount(numbers[mask], minlength=len(counts)).tolist() == quotas.tolist()
    assert (mask == held_out(stratified(labels, counts, quotas, 1), numbers)).all()


@settings(deadline=None)
@given(classes(), st.integers(2, 7), st.integers(1, 4))
def test_stratified_folds_are_disjoint_cover_everything_and_differ_by_a_row_in_each_class(
    drawn: Classes, folds: int, pieces: int
) -> None:
    labels, counts, numbers = drawn
    masks = [held_out(stratified_fold(labels, counts, fold, folds, 1), numbers, pieces) for fold in range(folds)]
    assert (np.sum(masks, axis=0) == 1).all()
    by_class = np.array([np.bincount(numbers[mask], minlength=len(counts)) for mask in masks])
    assert (by_class.max(axis=0) - by_class.min(axis=0) <= 1).all()
    assert by_class.sum(axis=1).tolist() == [len(range(fold, len(numbers), folds)) for fold in range(folds)]


def test_the_rows_of_a_class_do_not_depend_on_other_classes() -> None:
    """Another label in the archive must not move all rows of the others between training and validation."""
    numbers = np.zeros(1000, np.int32)
    alone = held_out(stratified(np.array([7]), np.array([1000]), np.array([100]), 1), numbers)
    labels, counts, quotas = np.array([3, 7]), np.array([50, 1000]), np.array([5, 100])
    both = held_out(stratified(labels, counts, quotas, 1), np.concatenate([np.zeros(50, np.int32), numbers + 1]))
    assert (both[50:] == alone).all()


@pytest.mark.parametrize("period", [2, 5, 10, 12])
def test_no_period_in_the_archive_falls_in_step_with_the_validation_rows(period: int) -> None:
    """Every 10th row for validation would be the same camera of 10, or of 5."""
    numbers = np.zeros(10_000, np.int32)
    rule = stratified(np.array([0]), np.array([10_000]), np.array([1_000]), 1)
    rows = np.flatnonzero(held_out(rule, numbers))
    by_phase = np.bincount(rows % period, minlength=period)
    assert (np.abs(by_phase - 1_000 / period) < 5 * np.sqrt(1_000 / period)).all()
    assert np.diff(rows).max() < 20  # still spread over the archive
    fold = np.flatnonzero(held_out(stratified_fold(np.array([0]), np.array([10_000]), 0, 10, 1), numbers))
    by_phase = np.bincount(fold % period, minlength=period)
    assert (np.abs(by_phase - 1_000 / period) < 5 * np.sqrt(1_000 / period)).all()
