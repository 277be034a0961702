"""What to know before trusting a test accuracy: each caveat is one short line, and its figures."""

from collections.abc import Iterator
from math import sqrt

import numpy as np

from jobs.dataset import Manifest, Split
from jobs.evaluate.results import Predictions
from jobs.metrics import Caveat, TestMetrics, ValidationMetrics
from jobs.words import counted

_WIDE = 0.02  # of the 95 % interval: the first decimal of the percentage is then unknown
_FAR = 0.01  # a smaller difference between two accuracies matters little, even if chance does not explain it
_Z999 = 3.090232306167813  # the standard normal's 99.9 % quantile
_MOST_NAMES = 5  # in one line


def caveats(
    manifest: Manifest, test: TestMetrics, validation: ValidationMetrics, predictions: Predictions
) -> tuple[Caveat, ...]:
    """Return the caveats of the result on a dataset's own test split, the gravest first."""
    return (
        *_images_in_training(manifest, predictions),
        *_one_class(manifest),
        *about_test(test, validation),
        *_made_from_training(manifest, test),
        *_left_out_images(manifest),
    )


def about_test(test: TestMetrics, validation: ValidationMetrics) -> tuple[Caveat, ...]:
    """Return the caveats of a result on any test images."""
    return (
        *_unseen_classes(test),
        *_missing_classes(test),
        *_below_validation(test, validation),
        *_few_images(test),
    )


def _images_in_training(manifest: Manifest, predictions: Predictions) -> Iterator[Caveat]:
    count = manifest.duplicates.test_images_in_train
    if not count:
        return
    without = accuracy_without(predictions, manifest.duplicates.test_rows)
    more = "" if without is None else f"; accuracy without them {without:.4f}"
    total = manifest.splits["test"].rows
    yield Caveat(
        kind="images-in-training",
        text=f"{count:,} of {total:,} test images {_are(count)} also in the training data{more}",
        figures={"count": count, "accuracy_without": without},
    )


def accuracy_without(predictions: Predictions, rows: tuple[int, ...]) -> float | None:
    """Return the accuracy on the images whose `index` is not in `rows`; None if `rows` or those images are missing."""
    kept = ~np.isin(predictions.indices, rows)
    if not rows or not kept.any():
        return None
    return float(predictions.correct[kept].mean())


def _unseen_classes(test: TestMetrics) -> Iterator[Caveat]:
    unseen = test.unseen
    if unseen is None:
        return
    names = _listed([each.name for each in unseen.classes])
    without = unseen.accuracy_without
    more = "" if without is None else f"; accuracy without them {without:.4f}"
    which = "1 test image of a class" if unseen.count == 1 else f"{unseen.count:,} test images of classes"
    verb = "counts as an error" if unseen.count == 1 else "count as errors"
    yield Caveat(
        kind="unseen-classes",
        text=f"{which} that training lacks ({names}) {verb}{more}",
        figures={"count": unseen.count, "classes": len(unseen.classes), "accuracy_without": without},
    )


def _one_class(manifest: Manifest) -> Iterator[Caveat]:
    splits: tuple[Split, ...] = ("test", "validation")
    for split in splits:
        present = np.flatnonzero(manifest.splits[split].label_counts[: manifest.classes]).tolist()
        if len(present) == 1 and manifest.classes > 1:
            yield Caveat(
                kind="one-class-in-test" if split == "test" else "one-class-in-validation",
                text=f"all {split} images are of class {manifest.class_names[present[0]]}: their accuracy means little",
                figures={"label": manifest.labels[present[0]]},
            )


def _missing_classes(test: TestMetrics) -> Iterator[Caveat]:
    missing = [each.name for each in test.classes if not each.support]
    if missing and len(missing) < len(test.classes) - 1:  # otherwise it is one class
        yield Caveat(
            kind="missing-classes",
            text=f"{len(missing):,} of {len(test.classes):,} classes {'has' if len(missing) == 1 else 'have'} no test "
            f"images: {_listed(missing)}",
            figures={"count": len(missing)},
        )


def _below_validation(test: TestMetrics, validation: ValidationMetrics) -> Iterator[Caveat]:
    unseen = test.unseen.count if test.unseen else 0
    count, correct = test.count - unseen, test.count - test.errors
    if validation.accuracy is None or validation.errors is None or not count:
        return
    below = validation.accuracy - correct / count
    z = proportions_z(validation.count - validation.errors, validation.count, correct, count)
    if below >= _FAR and z > _Z999:
        yield Caveat(
            kind="below-validation",
            text=f"test accuracy is {100 * below:.1f} points below validation ({validation.accuracy:.4f}): chance does "
            "not explain it (p < 0.001)",
            figures={"validation_accuracy": validation.accuracy, "below": below, "z": z},
        )


def proportions_z(successes: int, count: int, other_successes: int, other_count: int) -> float:
    """Return how many standard errors one proportion is above another, by their pooled variance; 0 if that is 0.

    Source: Fleiss, "Statistical Methods for Rates and Proportions" (1981), chapter 2, without continuity correction.
    """
    pooled = (successes + other_successes) / (count + other_count)
    variance = pooled * (1 - pooled) * (1 / count + 1 / other_count)
    return (successes / count - other_successes / other_count) / sqrt(variance) if variance else 0.0


def _few_images(test: TestMetrics) -> Iterator[Caveat]:
    width = test.ci95[1] - test.ci95[0]
    if width > _WIDE:
        yield Caveat(
            kind="few-images",
            text=f"{counted(test.count, 'test image')} {_are(test.count)} few: the 95 % interval is {100 * width:.1f} "
            "points wide",
            figures={"count": test.count, "width": width},
        )


def _made_from_training(manifest: Manifest, test: TestMetrics) -> Iterator[Caveat]:
    if "test_from" in manifest.options:
        yield Caveat(
            kind="made-from-training",
            text="the test split was made from the training archive: images of new writers or cameras may be harder",
            figures={"count": test.count},
        )


def _left_out_images(manifest: Manifest) -> Iterator[Caveat]:
    count = int(manifest.options.get("ignored_test_rows", 0))
    if count:
        yield Caveat(
            kind="left-out-images",
            text=f"{counted(count, 'test image')} of classes that training lacks "
            f"{'was' if count == 1 else 'were'} left out",
            figures={"count": count},
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
