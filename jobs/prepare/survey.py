"""What Spark's executors find out about a range of an archive, before anything is written.

Ranges are surveyed where they lie and merged in order on the driver, so the figures do not depend on who ran what.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Duplicates, Normalization, PixelStatistics, Split
from jobs.errors import InputError
from jobs.prepare.archives import Pair
from jobs.prepare.plan import DatasetPlan

NORMALIZATION_OF_BYTES = Normalization(rule="type-range", offset=0.0, scale=1 / 255)

_DIGEST_BYTES = 16  # 128 bits: no two different images collide by chance
_EXAMPLES = 10
_LARGEST_VALUE = 1e100  # its square, summed over any archive, is still a float64
_MOST_CLASSES = 100_000  # a label beyond it is a wrong file, not a class; it bounds the histogram


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and extremes of stored values."""

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
            count,
            self.mean + delta * other.count / count,
            self.squares + other.squares + delta * delta * self.count * other.count / count,
            min(self.min, other.min),
            max(self.max, other.max),
        )


NOTHING = Moments(0, 0.0, 0.0, np.inf, -np.inf)


@dataclass(frozen=True)
class Survey:
    """What a range of rows holds. `digests`: bytes, 16 for each row. `label_counts`: int64 [highest label + 1]."""

    moments: Moments
    label_counts: NDArray[Any]
    digests: bytes


def survey(pair: Pair, rows: NDArray[Any]) -> Survey:
    """Survey rows (int64 [n], n ≥ 1) of a pair; raise InputError naming file and row for what cannot be trained on."""
    images, labels = pair.read(rows)
    bad = (labels < 0) | (labels >= _MOST_CLASSES)
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(
            f"{pair.label_archive}: row {rows[at]}: found label {labels[at]}, expected 0 to {_MOST_CLASSES - 1}; "
            "number the classes from 0"
        )
    values = np.ascontiguousarray(images).reshape(len(images), -1)
    if values.dtype.kind == "f":
        usable = (np.abs(values) <= _LARGEST_VALUE).all(axis=1)  # false for NaN
        if not usable.all():
            raise InputError(
                f"{pair.image_archive}: row {rows[int(np.argmin(usable))]}: found a value that is not finite or beyond "
                f"±{_LARGEST_VALUE:g}, expected numbers; mend or leave out that image"
            )
    digests = b"".join(hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in values)
    return Survey(_moments(values), np.bincount(labels.astype(np.int64)), digests)


def _moments(values: NDArray[Any]) -> Moments:
    if values.size == 0:
        return NOTHING
    if values.dtype == np.uint8:
        # A histogram is exact and several times faster than float arithmetic over every pixel.
        histogram = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
        levels = np.arange(256.0)
        mean = float(histogram @ levels) / values.size
        squares = float(histogram @ (levels - mean) ** 2)
        return Moments(values.size, mean, squares, float(values.min()), float(values.max()))
    wide = values.astype(np.float64)
    mean = float(wide.mean())
    return Moments(wide.size, mean, float(((wide - mean) ** 2).sum()), float(wide.min()), float(wide.max()))


@dataclass(frozen=True)
class Findings:
    """The surveys of a whole dataset, merged: what the manifest says of the data."""

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

    Classes are counted by the training archive (train and validation). Raises InputError for a test label beyond.
    """
    counts = {split: add_counts([part.label_counts for part in parts]) for split, parts in surveys.items()}
    classes = max(len(counts["train"]), len(counts["validation"]))
    if len(counts["test"]) > classes:
        raise InputError(
            f"{test_labels}: found label {len(counts['test']) - 1}, expected 0 to {classes - 1} as in the training "
            "labels; give archives of one data set"
        )
    moments = {split: reduce(Moments.__add__, [p.moments for p in parts], NOTHING) for split, parts in surveys.items()}
    rule = _normalization(stored, moments["train"] + moments["validation"])
    digests = {split: b"".join(part.digests for part in parts) for split, parts in surveys.items()}
    train = moments["train"]
    return Findings(
        classes,
        {split: tuple(int(n) for n in np.pad(found, (0, classes - len(found)))) for split, found in counts.items()},
        PixelStatistics(
            mean=(train.mean - rule.offset) * rule.scale,
            std=float(np.sqrt(train.squares / train.count)) * rule.scale,
            min=(train.min - rule.offset) * rule.scale,
            max=(train.max - rule.offset) * rule.scale,
        ),
        rule,
        find_duplicates(plan, digests),
    )


def add_counts(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Add label counts, int64 [highest label + 1] each, as long as the longest of them; [0] where there are none."""
    total = np.zeros(max((len(part) for part in parts), default=0), np.int64)
    for part in parts:
        total[: len(part)] += part
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
    wanted = set(_split(test))
    first_seen: dict[bytes, int] = {}
    for row, digest in zip(rows, _split(training), strict=True):
        if digest in wanted:
            first_seen.setdefault(digest, row)
    pairs = [(row, first_seen[digest]) for row, digest in enumerate(_split(test)) if digest in first_seen]
    return Duplicates(test_images_in_train=len(pairs), examples=tuple(pairs[:_EXAMPLES]))


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[i : i + _DIGEST_BYTES] for i in range(0, len(digests), _DIGEST_BYTES))
