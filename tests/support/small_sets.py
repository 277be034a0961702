"""Twelve small data sets, each in a variant to choose settings with and one to report on, which share no image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.prepare import idx
from tests.support.real_data import fashion, real_data

_TEST_ROWS = 2000  # of generated and of subset data: one standard error is at most 0.9 points at 80 %
_GREY, _CONTRAST = 128, 40

Variant = Literal["choose", "report"]


@dataclass(frozen=True, kw_only=True)
class SmallSet:
    """A data set: images uint8 [n, height, width] or [n, height, width, channels], labels uint8 [n]."""

    train_images: NDArray[Any]
    train_labels: NDArray[Any]
    test_images: NDArray[Any]
    test_labels: NDArray[Any]


def _generated(
    rows: int, classes: int, shape: tuple[int, ...], noise: float, *, is_sorted: bool = False
) -> Callable[[Variant], SmallSet]:
    """Return a maker of smooth patterns, two a class, shifted by up to 4 pixels under smooth and white noise."""

    def make(variant: Variant) -> SmallSet:
        random = np.random.default_rng([rows, classes, variant == "report"])
        padded = (shape[0] + 4, shape[1] + 4, *shape[2:])
        patterns = _smooth(random, 2 * classes, padded, 5)
        labels = random.permutation(np.arange(rows + _TEST_ROWS) % classes)
        styles, down, right = (random.integers(0, n, len(labels)) for n in (2, 5, 5))
        chosen = patterns[labels * 2 + styles]
        views = np.stack(
            [image[y : y + shape[0], x : x + shape[1]] for image, y, x in zip(chosen, down, right, strict=True)]
        )
        views = views + noise * (_smooth(random, len(views), shape, 6) + random.normal(0, 0.7, views.shape))
        images = np.clip(_GREY + _CONTRAST * views, 0, 255).astype(np.uint8)
        order = np.argsort(labels[:rows], kind="stable") if is_sorted else np.arange(rows)
        labels = labels.astype(np.uint8)
        return SmallSet(
            train_images=images[:rows][order],
            train_labels=labels[:rows][order],
            test_images=images[rows:],
            test_labels=labels[rows:],
        )

    return make


def _smooth(random: np.random.Generator, count: int, shape: tuple[int, ...], knots: int) -> NDArray[Any]:
    """Return random fields [count, *shape] that interpolate `knots` × `knots` normal numbers linearly."""
    field = random.normal(size=(count, knots, knots, *shape[2:]))
    for axis in (1, 2):
        at = np.linspace(0, knots - 1, shape[axis - 1])
        low = np.minimum(at.astype(int), knots - 2)
        part = (at - low).reshape([-1 if n == axis else 1 for n in range(field.ndim)])
        field = (1 - part) * field.take(low, axis) + part * field.take(low + 1, axis)
    return field


def _subset(images: NDArray[Any], labels: NDArray[Any], variant: Variant) -> SmallSet:
    """Return 1,500 rows to train on and 2,000 to test on; each variant has its own."""
    rows = np.random.default_rng(0).permutation(len(images))
    rows = rows[:3500] if variant == "report" else rows[3500:7000]
    train, test = rows[:1500], rows[1500:]
    return SmallSet(
        train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test]
    )


def _digits(variant: Variant) -> SmallSet:
    """Return scikit-learn's digits, 8 × 8: 1,437 rows to train on. Settings are chosen by a quarter of those."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.uint8)
    rows = np.random.default_rng(0).permutation(len(images))
    train, test = rows[:1437], rows[1437:]
    if variant == "choose":
        train, test = train[:1078], train[1078:]
    return SmallSet(
        train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test]
    )


def _fashion(variant: Variant) -> SmallSet:
    folder = fashion()
    images = idx.read(folder / "train-images-idx3-ubyte.gz")
    return _subset(images, idx.read(folder / "train-labels-idx1-ubyte.gz"), variant)


def _kannada(variant: Variant) -> SmallSet:
    folder = real_data("kannada")
    (images,), (labels,) = (sorted(folder.glob(f"{letter}_*est-idx*")) for letter in "Xy")
    return _subset(idx.read(images), idx.read(labels), variant)


SETS: Mapping[str, Callable[[Variant], SmallSet]] = {
    "digits 8×8": _digits,
    "Fashion, 1,500": _fashion,
    "Kannada, 1,500": _kannada,
    "100 of 2": _generated(100, 2, (16, 16), 0.9),
    "200 of 5, sorted": _generated(200, 5, (12, 20), 0.6, is_sorted=True),
    "400 of 10": _generated(400, 10, (16, 16), 0.6),
    "600 of 3, sorted": _generated(600, 3, (12, 12, 3), 1.2, is_sorted=True),
    "1,000 of 4": _generated(1000, 4, (16, 16, 3), 1.2),
    "1,600 of 16": _generated(1600, 16, (14, 14), 0.6),
    "2,400 of 60, sorted": _generated(2400, 60, (12, 12, 3), 0.6, is_sorted=True),
    "3,000 of 2, sorted": _generated(3000, 2, (10, 10), 1.0, is_sorted=True),
    "5,000 of 20": _generated(5000, 20, (14, 14), 0.7),
}
