"""Labels of any integers: how they become class numbers, and which test labels are refused."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.labels import ClassMap, LabelColumn, LabelCounts, class_names, count_labels, map_classes

TEST = Path("t10k-labels-idx1-ubyte.gz")
INTEGERS = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3), min_size=1, max_size=60)


def counted(*labels: int) -> LabelCounts:
    return count_labels(TEST, [np.array(labels, np.int64)])


@settings(deadline=None)
@given(INTEGERS, st.integers(1, 5))
def test_labels_are_counted_in_any_pieces(labels: list[int], pieces: int) -> None:
    counts = count_labels(TEST, np.array_split(np.array(labels, np.int64), pieces))
    assert counts.labels.tolist() == sorted(set(labels))
    assert counts.rows.tolist() == [labels.count(label) for label in sorted(set(labels))]


@settings(deadline=None)
@given(INTEGERS, INTEGERS)
def test_classes_are_the_training_labels_in_order_then_those_of_test_alone(train: list[int], test: list[int]) -> None:
    classes = map_classes(counted(*train), counted(*test), "count", TEST)
    known, unseen = sorted(set(train)), sorted(set(test) - set(train))
    assert classes.labels.tolist() == [*known, *unseen]
    assert classes.classes == len(known)
    numbers = classes.numbers(np.array([*train, *test], np.int64))
    assert numbers.dtype == np.int32
    assert classes.labels[numbers].tolist() == [*train, *test]
    assert classes.counts(counted(*test)).sum() == len(test)


def test_a_label_without_a_class_has_the_number_minus_one() -> None:
    classes = ClassMap(np.array([-7, 3, 300]), 3)
    assert classes.numbers(np.array([300, 299, -7, -8, 1000])).tolist() == [2, -1, 0, -1, -1]


def test_unseen_test_labels_are_refused_with_their_counts() -> None:
    expected = (
        "t10k-labels-idx1-ubyte.gz: found 3 of 5 rows with labels that training lacks: 27 (2), 28 (1); expected "
        "labels of the training archive; fix: give archives of one data set, or set prepare.unseen_classes=ignore "
        "(leave them out) or =count (as errors)"
    )
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        map_classes(counted(1, 2, 3), counted(27, 28, 27, 1, 2), "refuse", TEST)


def test_unseen_test_labels_are_left_out_or_kept_apart_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("idxtrain").addHandler(handler)
    try:
        ignoring = map_classes(counted(4, 9), counted(9, 5, 5), "ignore", TEST)
        counting = map_classes(counted(4, 9), counted(9, 5, 5), "count", TEST)
    finally:
        logging.getLogger("idxtrain").removeHandler(handler)
    assert (ignoring.labels.tolist(), counting.labels.tolist()) == ([4, 9], [4, 9, 5])
    assert ignoring.numbers(np.array([5, 9])).tolist() == [-1, 1]
    assert (ignoring.classes, counting.classes) == (2, 2)
    told = "prepare: 2 of the test rows have labels that training lacks: 5 (2); "
    assert lines == [f"{told}left out", f"{told}each counts as an error"]


def test_a_test_archive_with_no_known_label_is_refused_rather_than_emptied() -> None:
    with pytest.raises(InputError, match=r"fix: give archives of one data set$"):
        map_classes(counted(1, 2), counted(3, 4), "ignore", TEST)


def test_more_than_a_hundred_thousand_labels_are_refused() -> None:
    pieces = (np.arange(start, start + 50_001) for start in (0, 50_001))
    with pytest.raises(InputError, match=r"^t10k-labels-.*: found more than 100,000 different labels, expected"):
        count_labels(TEST, pieces)


@pytest.mark.parametrize(
    ("labels", "own", "expected"),
    [
        ([0, 1, 2], [0, 2], {}),  # each label is its own number
        ([1, 2, 5], [1, 5], {1: 0, 5: 2}),
        ([0, 1, 2], [0, 9], {0: 0, 9: -1}),
    ],
)
def test_the_map_of_some_labels_is_empty_where_each_is_its_number(
    labels: list[int], own: list[int], expected: dict[int, int]
) -> None:
    assert ClassMap(np.array(labels), len(labels)).own_map(np.array(own)) == expected


def test_names_are_those_of_the_description_else_the_labels() -> None:
    assert class_names(ClassMap(np.array([-1, 65, 66]), 3), {65: "A", 1: "one"}) == ("-1", "A", "66")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
@pytest.mark.parametrize("column", [None, 2])
def test_labels_are_read_from_any_integer_type_and_column(tmp_path: Path, dtype: str, column: int | None) -> None:
    limits = np.iinfo(dtype)
    labels = np.random.default_rng(0).integers(limits.min, limits.max, 500, np.int64, endpoint=True)
    stored: NDArray[Any] = labels.astype(dtype)
    if column is not None:
        stored = np.zeros((500, 4), dtype)
        stored[:, column] = labels
    idx.write(tmp_path / "labels", stored)
    file = LabelColumn(tmp_path / "labels", idx.read_header(tmp_path / "labels"), column or 0)
    assert file.read(3, 9).tolist() == labels[3:9].tolist()
    assert np.concatenate([block for _, block in file.blocks()]).tolist() == labels.tolist()
