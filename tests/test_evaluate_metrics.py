"""The figures of predictions, against hand-counted tables and published values, and their text on stderr."""

import json
import math
import sys
import tracemalloc
from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs import metrics
from jobs.errors import InputError
from jobs.evaluate import table
from jobs.evaluate.metrics import (
    Confusion,
    count_confusions,
    read_confusions,
    shown_names,
    summarize,
    to_matrix,
    wilson_interval,
    worst_confusions,
)
from jobs.evaluate.predict import check_probabilities
from jobs.evaluate.results import collect
from jobs.metrics import ClassMetrics, UnseenClass
from tests.support.prepared import bare_manifest

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
PREDICTED = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 0, 1]


def summary(
    probabilities: NDArray[Any], labels: NDArray[Any], archive_labels: Sequence[int] = (), names: Sequence[str] = ()
) -> metrics.TestMetrics:
    """Summarize predictions; by default the labels in the archives are the class numbers, and their own names."""
    numbers = archive_labels or tuple(range(probabilities.shape[1]))
    about = {"labels": tuple(numbers), "class_names": tuple(names or map(str, numbers))}
    manifest = bare_manifest((1, 1, 1), probabilities.shape[1]).model_copy(update=about)
    return summarize(collect(labels, np.arange(len(labels)), [probabilities]), manifest)


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0], [0.0, 0.0]])
def test_a_row_that_is_not_probabilities_is_refused(row: list[float]) -> None:
    check_probabilities(np.array([[1, 0], [0.3, 0.7]], np.float32))
    with pytest.raises(InputError, match=r"test row 1: found the sum .*, expected a probability for each class"):
        check_probabilities(np.array([[1, 0], row], np.float32))


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_agrees_with_published_values(successes: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)  # a busy machine is not an error
@given(count=st.integers(1, 10**7), data=st.data())
def test_wilson_interval_contains_the_proportion(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    assert low < high
    assert wilson_interval(count - successes, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_undefined_figures_are_null() -> None:
    probabilities = np.array([[0.5, 0.5, 0], [0.25, 0.75, 0], [0, 1, 0]], np.float32)
    test = summary(probabilities, np.array([0, 0, 1], np.int32))  # class 2 has no images and was never predicted
    assert test.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 0))  # of equal probabilities, the lower label
    assert test.classes[2] == ClassMetrics(label=2, name="2", precision=None, recall=None, support=0)
    assert test.classes[1] == ClassMetrics(label=1, name="1", precision=0.5, recall=1.0, support=1)
    assert test.loss == pytest.approx((math.log(2) + math.log(4)) / 3)
    json.dumps(test.model_dump(mode="json"), allow_nan=False)


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    test = summary(np.array([[1, 0]], np.float32), np.array([1], np.int32))
    assert test.loss == pytest.approx(126 * math.log(2))


@settings(deadline=None)  # a busy machine is not an error
@given(classes=st.integers(1, 12), data=st.data())
def test_the_confusion_matrix_counts_every_row_once(classes: int, data: st.DataObject) -> None:
    label = st.integers(0, classes - 1)
    pairs = data.draw(st.lists(st.tuples(label, label), min_size=1, max_size=50))
    labels, predicted = np.array(pairs, np.int32).T
    confusions = count_confusions(labels, predicted)
    confusion = to_matrix(confusions, classes, classes)
    assert confusion.shape == (classes, classes)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=classes).tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount(predicted, minlength=classes).tolist()
    assert all(confusion[true, guess] == pairs.count((true, guess)) for true, guess in pairs)
    worst = worst_confusions(confusions, classes**2)
    assert sum(c.count for c in worst) == np.count_nonzero(labels != predicted)
    assert [c.count for c in worst] == sorted((c.count for c in worst), reverse=True)


def test_worst_confusions_come_first() -> None:
    confusions = [(0, 0, 9), (0, 1, 2), (0, 2, 1), (1, 1, 5), (1, 2, 4), (2, 0, 2), (2, 2, 7)]
    assert worst_confusions(np.array(confusions), 3) == [Confusion(1, 2, 4), Confusion(0, 1, 2), Confusion(2, 0, 2)]


def test_a_terminal_shows_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    table.show(summary(np.eye(3, dtype=np.float32)[PREDICTED], LABELS))
    assert "most frequent errors: 0 predicted as 1: 1, 2 predicted as 0: 1, 2 predicted as 1: 1" in terminal.getvalue()
    assert "test accuracy 0.7500 (3 errors in 12), 95 % interval 0.4677 to 0.9111" in terminal.getvalue()


def test_only_the_worst_of_many_classes_are_shown() -> None:
    labels = np.arange(40, dtype=np.int32)
    predicted = np.where(labels < 5, labels + 1, labels)
    lines = table.lines(summary(np.eye(40, dtype=np.float32)[predicted], labels))
    assert len(lines) == 1 + 1 + 30 + 2
    assert [line.split()[0] for line in lines[2:7]] == ["0", "1", "2", "3", "4"]


def test_up_to_a_thousand_classes_have_a_matrix_and_more_have_a_list() -> None:
    labels, predicted = np.array([0, 999, 0, 999], np.int32), [0, 7, 0, 999]
    for classes in (1000, 1001):
        test = summary(np.eye(classes, dtype=np.float32)[predicted], labels)
        confusions = read_confusions(test).tolist()
        assert confusions == [[0, 0, 2], [999, 7, 1], [999, 999, 1]]
        assert (test.errors, test.count, len(test.classes)) == (1, 4, classes)
        assert test.classes[7] == ClassMetrics(label=7, name="7", precision=0.0, recall=None, support=0)
        assert "most frequent errors: 999 predicted as 7: 1" in "\n".join(table.lines(test))
        is_matrix = np.array(test.confusion).shape == (1000, 1000)
        assert is_matrix == (classes == 1000)
        assert is_matrix or [list(row) for row in test.confusion] == confusions


def test_memory_and_metrics_grow_linearly_with_the_classes() -> None:
    labels = np.arange(100, dtype=np.int32) % 4
    probabilities = np.eye(5000, dtype=np.float32)[labels]
    tracemalloc.start()
    try:
        test = summary(probabilities, labels)
        lines, size = table.lines(test), len(test.model_dump_json())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1_000_000
    assert peak < 20_000_000
    assert len(lines) == 1 + 1 + 4 + 1
    assert lines[-1] == "evaluate: the 4 of 5000 classes with the lowest recall; metrics.json has all"


def test_labels_and_names_of_the_archives_are_shown() -> None:
    names = ("T-shirt/top", "[red]Shirt", "Coat")
    test = summary(np.eye(3, dtype=np.float32)[PREDICTED], LABELS, (-5, 70, 1000), names)
    assert [(each.label, each.name) for each in test.classes] == [(-5, names[0]), (70, names[1]), (1000, names[2])]
    assert test.confusion == ((3, 1, 0), (0, 4, 0), (1, 1, 2))  # by class number
    lines = table.lines(test)
    assert lines[1].split() == ["label", "class", "images", "precision", "recall"]
    assert lines[3].split() == ["70", "[red]Shirt", "4", "0.6667", "1.0000"]
    assert lines[-1].endswith(": T-shirt/top predicted as [red]Shirt: 1, Coat predicted as T-shirt/top: 1, "
                              "Coat predicted as [red]Shirt: 1")  # fmt: skip


def test_labels_beyond_a_thousand_classes_are_listed_and_read_back() -> None:
    labels, predicted = np.array([0, 1000]), [0, 7]
    test = summary(np.eye(1001, dtype=np.float32)[predicted], labels, range(-1, 1000))
    assert test.confusion == ((-1, -1, 1), (999, 6, 1))
    assert read_confusions(test).tolist() == [[0, 0, 1], [1000, 7, 1]]


def test_classes_of_one_name_are_told_apart_by_their_labels() -> None:
    test = summary(np.eye(3, dtype=np.float32)[PREDICTED], LABELS, (1, 2, 3), ("o", "o", "x"))
    assert shown_names(test) == ["o (1)", "o (2)", "x"]


def test_images_of_unseen_classes_are_errors_and_are_counted_apart() -> None:
    probabilities = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1]]
    test = summary(probabilities, np.array([0, 1, 1, 2, 3]), (10, 20, 11, 12), ("A", "B", "C", "D"))
    assert (test.accuracy, test.errors, test.count) == (2 / 5, 3, 5)
    assert test.unseen is not None
    assert (test.unseen.count, test.unseen.accuracy_without) == (2, 2 / 3)
    assert test.unseen.classes == (
        UnseenClass(label=11, name="C", count=1), UnseenClass(label=12, name="D", count=1),
    )  # fmt: skip
    assert [each.label for each in test.classes] == [10, 20]
    assert test.confusion == ((1, 0), (1, 1), (0, 1), (0, 1))
    assert test.loss == pytest.approx(126 * math.log(2) / 3)  # of the three images of known classes
    assert "C predicted as B: 1" in table.lines(test)[-1]
    only_unseen = summary(probabilities[:1], np.array([2]), (10, 20, 11))
    assert (only_unseen.accuracy, only_unseen.loss) == (0.0, None)
    assert table.lines(only_unseen)[0].endswith("95 % interval 0.0000 to 0.7935")
