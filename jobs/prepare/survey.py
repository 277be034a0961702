"""Survey the rows of an archive before anything is written.

Executors survey ranges of rows. The driver merges them in order, so no figure depends on which executor ran what.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Duplicates, Normalization, PixelStatistics, Split
from jobs.errors import InputError
from jobs.prepare.archives import Pair
from jobs.prepare.plan import DatasetPlan

NORMALIZATION_OF_BYTES = Normalization(rule="type-range", offset=0.0, scale=1 / 255)

_DIGEST_BYTES = 16  # 128 bits: two different images never collide by chance
_EXAMPLES = 10
_MOST_ROWS = 100_000  # of duplicates: a manifest of 1 MB
_LARGEST_VALUE = 1e100  # its square, summed over any archive, is still a float64
_MOST_CLASSES = 100_000  # a larger label means the wrong file; this limits the histogram


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean, sum of squared differences from the mean, and extremes of stored values."""

    count: int
    mean: float
    squares: float
    min: float
    max: float

    def __add__(self, other: "Moments") -> "Moments":
        """Merge two disjoint sets: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm" (1979)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * other.count / count,
            squares=self.squares + other.squares + delta * delta * self.count * other.count / count,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
        )


NOTHING = Moments(count=0, mean=0.0, squares=0.0, min=np.inf, max=-np.inf)


@dataclass(frozen=True)
class Survey:
    """The survey of a range of rows. `digests`: 16 bytes per row. `label_counts`: int64 [highest label + 1]."""

    moments: Moments
    label_counts: NDArray[Any]
    digests: bytes


def survey(pair: Pair, rows: NDArray[Any]) -> Survey:
    """Survey rows (int64 [n], n ≥ 1) of a pair. Raises InputError, with file and row, for unusable values."""
    images, labels = pair.read(rows)
    bad = (labels < 0) | (labels >= _MOST_CLASSES)
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(
            f"{pair.label_archive}: row {rows[at]}: found label {labels[at]}, expected 0 to {_MOST_CLASSES - 1}; "
            "fix: number the classes from 0"
        )
    values = np.ascontiguousarray(images).reshape(len(images), -1)
    if values.dtype.kind == "f":
        usable = (np.abs(values) <= _LARGEST_VALUE).all(axis=1)  # false for NaN
        if not usable.all():
            raise InputError(
                f"{pair.image_archive}: row {rows[int(np.argmin(usable))]}: found a value that is not finite or beyond "
                f"±{_LARGEST_VALUE:g}, expected numbers; fix: correct or leave out that image"
            )
    digests = b"".join(hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in values)
    return Survey(_moments(values), np.bincount(labels.astype(np.int64)), digests)


def _moments(values: NDArray[Any]) -> Moments:
    if values.size == 0:
        return NOTHING
    if values.dtype == np.uint8:
        # A histogram is exact, and several times faster than float arithmetic over every pixel.
        histogram = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
        levels = np.arange(256.0)
        mean = float(histogram @ levels) / values.size
        squares = float(histogram @ (levels - mean) ** 2)
        low, high = float(values.min()), float(values.max())
        return Moments(count=values.size, mean=mean, squares=squares, min=low, max=high)
    wide = values.astype(np.float64)
    mean = float(wide.mean())
    squares = float(((wide - mean) ** 2).sum())
    return Moments(count=wide.size, mean=mean, squares=squares, min=float(wide.min()), max=float(wide.max()))


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The merged surveys of a whole dataset: what its manifest states about the data."""

    classes: int
    label_counts: dict[Split, tuple[int, ...]]
    pixels: PixelStatistics
    normalization: Normalization
    duplicates: Duplicates


def merge(
    plan: DatasetPlan, surveys: Mapping[Split, Sequence[Survey]], stored: np.dtype[Any], test_labels: Path
) -> Findings:
    """Merge the surveys of each split, given in row order. `stored`: the images' dtype in the archive.
    `test_labels`: the archive that an error names.

    The training archive (train and validation) determines the classes. Raises InputError for a test label beyond them.
    """
    counts = {split: add_counts([each.label_counts for each in surveys[split]]) for split in SPLITS}
    moments = {split: reduce(Moments.__add__, [each.moments for each in surveys[split]], NOTHING) for split in SPLITS}
    digests = {split: b"".join(each.digests for each in surveys[split]) for split in SPLITS}
    classes = count_classes([counts["train"], counts["validation"]], counts["test"], test_labels)
    rule = _normalization(stored, moments["train"] + moments["validation"])
    return Findings(
        classes=classes,
        label_counts={split: padded(counts[split].tolist(), classes) for split in SPLITS},
        pixels=pixel_statistics(moments["train"], rule),
        normalization=rule,
        duplicates=find_duplicates(plan, digests),
    )


def count_classes(training: Iterable[Sized], test: Sized, test_labels: Path) -> int:
    """Return the number of classes of a dataset: the length of its longest training label counts.

    `test`: label counts of the test split. Raises InputError, naming the archive `test_labels`, if they are longer.
    """
    classes = max(map(len, training))
    if len(test) > classes:
        raise InputError(
            f"{test_labels}: found label {len(test) - 1}, expected 0 to {classes - 1} as in the training labels; "
            "fix: give archives of one data set"
        )
    return classes


def pixel_statistics(moments: Moments, rule: Normalization) -> PixelStatistics:
    """Return the statistics of normalized pixels from the moments of the stored values."""
    return PixelStatistics(
        mean=(moments.mean - rule.offset) * rule.scale,
        std=float(np.sqrt(moments.squares / moments.count)) * rule.scale,
        min=(moments.min - rule.offset) * rule.scale,
        max=(moments.max - rule.offset) * rule.scale,
    )


def padded(counts: Sequence[int], classes: int) -> tuple[int, ...]:
    """Return label counts with zeros up to the number of classes."""
    return (*counts, *[0] * (classes - len(counts)))


def add_counts(counts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Add label counts, int64 [highest label + 1] each; return a sum as long as the longest of them."""
    total = np.zeros(max(map(len, counts), default=0), np.int64)
    for each in counts:
        total[: len(each)] += each
    return total


def _normalization(stored: np.dtype[Any], seen: Moments) -> Normalization:
    if stored == np.uint8:
        return NORMALIZATION_OF_BYTES
    extent = seen.max - seen.min
    return Normalization(rule="train-range", offset=seen.min, scale=1 / extent if extent else 1.0)


def find_duplicates(plan: DatasetPlan, digests: Mapping[Split, bytes]) -> Duplicates:
    """Find test images that are also in the training archive, by digest."""
    rows = [row for split in ("train", "validation") for row in plan.archive_rows(split, 0, plan.rows[split]).tolist()]
    return duplicates(rows, digests["train"] + digests["validation"], digests["test"])


def duplicates(rows: Sequence[int], training: bytes, test: bytes) -> Duplicates:
    """Find test images among training images by digest. `rows`: the training images' `index`, in `training`'s order."""
    in_test = set(_split(test))
    first_seen: dict[bytes, int] = {}
    for row, digest in zip(rows, _split(training), strict=True):
        if digest in in_test:
            first_seen.setdefault(digest, row)
    pairs = [(row, first_seen[digest]) for row, digest in enumerate(_split(test)) if digest in first_seen]
    return Duplicates(
        test_images_in_train=len(pairs),
        test_rows=tuple(row for row, _ in pairs) if len(pairs) <= _MOST_ROWS else (),
        examples=tuple(pairs[:_EXAMPLES]),
    )


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[i : i + _DIGEST_BYTES] for i in range(0, len(digests), _DIGEST_BYTES))
