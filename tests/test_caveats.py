"""What stands beside an accuracy: each caveat from the facts that call for it, and none without them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from jobs.dataset import Duplicates, Manifest, SplitInfo
from jobs.evaluate.caveats import accuracy_without, caveats, proportions_z
from jobs.evaluate.metrics import summarize
from jobs.evaluate.results import Predictions, collect
from jobs.metrics import Caveat, ValidationMetrics
from tests.support.prepared import bare_manifest

ROWS = 4000  # all correct but `errors`: an interval of less than two points


def validated(errors: int, count: int = 1000) -> ValidationMetrics:
    return ValidationMetrics(accuracy=1 - errors / count, errors=errors, count=count, loss=0.1)


def predictions_of(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> Predictions:
    return collect(labels, np.arange(len(labels)), [np.eye(classes, dtype=np.float32)[predicted]])


def manifest_of(labels: NDArray[Any], classes: int, names: tuple[str, ...], **changes: Any) -> Manifest:
    test = SplitInfo(rows=len(labels), label_counts=tuple(np.bincount(labels, minlength=len(names))), shards=())
    manifest = bare_manifest((1, 1, 1), classes)
    about = {"labels": tuple(range(len(names))), "class_names": names, "splits": {**manifest.splits, "test": test}}
    return manifest.model_copy(update=about | changes)


def found(
    labels: NDArray[Any], errors: int = 0, classes: int = 2, validation: ValidationMetrics | None = None, **changes: Any
) -> list[Caveat]:
    """Return the caveats where the first `errors` images of known classes are predicted incorrectly."""
    names = tuple("ABCDEFGHIJ"[: max(classes, labels.max() + 1)])
    predicted = np.where(labels < classes, labels, 0)
    predicted[:errors] = (predicted[:errors] + 1) % classes
    manifest, predictions = manifest_of(labels, classes, names, **changes), predictions_of(labels, predicted, classes)
    test = summarize(predictions, manifest)
    return list(caveats(manifest, test, validation or validated(0), predictions))


def test_a_large_clean_test_has_no_caveat() -> None:
    assert found(np.arange(ROWS) % 2) == []


@pytest.mark.parametrize(("count", "wide"), [(1800, True), (2000, False)])
def test_a_wide_interval_is_a_caveat(count: int, wide: bool) -> None:
    caveats = found(np.arange(count) % 2, errors=count // 20, validation=validated(50))
    assert [each.kind for each in caveats] == ["few-images"] * wide


def test_test_images_in_training_are_counted_and_left_out() -> None:
    duplicates = Duplicates(test_images_in_train=3, test_rows=(0, 1, 3999), examples=((0, 5), (1, 6), (3999, 7)))
    (caveat,) = found(np.arange(ROWS) % 2, errors=1, duplicates=duplicates)
    assert caveat.text == "3 of 4,000 test images are also in the training data; accuracy without them 1.0000"
    assert caveat.figures == {"count": 3, "accuracy_without": 1.0}
    (caveat,) = found(np.arange(ROWS) % 2, duplicates=Duplicates(test_images_in_train=100_001, examples=((0, 5),)))
    assert caveat.text.endswith("also in the training data")


def test_the_accuracy_without_all_images_is_unknown() -> None:
    predictions = predictions_of(np.array([0, 1]), np.array([0, 0]), 2)
    assert accuracy_without(predictions, (0,)) == 0.0
    assert accuracy_without(predictions, (0, 1)) is None


def test_unseen_classes_are_named_with_the_accuracy_without_them() -> None:
    labels = np.concatenate([np.arange(ROWS) % 2, np.full(40, 2)])
    (caveat,) = found(labels)
    assert (
        caveat.text == "40 test images of classes that training lacks (C) count as errors; accuracy without them 1.0000"
    )
    assert (caveat.kind, caveat.figures["count"]) == ("unseen-classes", 40)


def test_classes_without_test_images_are_named() -> None:
    (caveat,) = found(np.arange(ROWS) % 2, classes=9)
    assert caveat.text == "7 of 9 classes have no test images: C, D, E, F, G and 2 more"


def test_one_class_alone_in_test_or_validation_is_a_caveat() -> None:
    (caveat,) = found(np.zeros(ROWS, np.int64))
    assert (caveat.kind, caveat.figures) == ("one-class-in-test", {"label": 0})
    assert caveat.text == "all test images are of class A: their accuracy means little"
    labels = np.arange(ROWS) % 2
    splits = manifest_of(labels, 2, ("A", "B")).splits
    validation = SplitInfo(rows=9, label_counts=(0, 9), shards=())
    (caveat,) = found(labels, splits={**splits, "validation": validation})
    assert caveat.text == "all validation images are of class B: their accuracy means little"


@pytest.mark.parametrize(
    ("errors", "validation", "expected"),
    [
        (200, validated(10), ["below-validation"]),  # 0.95 against 0.99
        (200, validated(0, 10), []),  # ten images prove nothing
        (200, validated(49), []),  # 0.1 points
        (0, validated(100), []),  # above validation
        (200, ValidationMetrics(accuracy=None, errors=None, count=0, loss=None), []),
    ],
)
def test_a_test_accuracy_far_below_validation_is_a_caveat(
    errors: int, validation: ValidationMetrics, expected: list[str]
) -> None:
    caveats = found(np.arange(ROWS) % 2, errors, validation=validation)
    assert [each.kind for each in caveats] == expected
    for caveat in caveats:
        assert caveat.text.startswith("test accuracy is 4.0 points below validation (0.9900): ")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (
            {"test_from": "training archive, stratified"},
            "made-from-training",
            "the test split was made from the training",
        ),
        ({"ignored_test_rows": 1234}, "left-out-images", "1,234 test images of classes that training lacks were left"),
    ],
)
def test_how_prepare_chose_the_test_split_is_a_caveat(options: dict[str, int | str], kind: str, words: str) -> None:
    (caveat,) = found(np.arange(ROWS) % 2, options=options)
    assert caveat.kind == kind
    assert caveat.text.startswith(words)


def test_images_of_unseen_classes_do_not_make_the_test_fall_below_validation() -> None:
    labels = np.concatenate([np.arange(ROWS) % 2, np.full(400, 2)])
    assert [each.kind for each in found(labels)] == ["unseen-classes"]


@settings(deadline=None)  # a busy machine is not an error
@given(count=st.integers(1, 5000), other=st.integers(1, 5000), data=st.data())
def test_the_test_of_two_proportions_is_the_chi_squared_test(count: int, other: int, data: st.DataObject) -> None:
    one, two = data.draw(st.integers(0, count)), data.draw(st.integers(0, other))
    z = proportions_z(one, count, two, other)
    if one + two in (0, count + other):
        assert z == 0
        return
    expected = chi2_contingency([[one, count - one], [two, other - two]], correction=False).statistic
    assert z**2 == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert z * (one / count - two / other) >= 0
