"""Survey the rows of an archive before anything is written.

Executors survey ranges of rows. The driver merges them in order, so no figure depends on which executor ran what.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Duplicates, Normalization, PixelStatistics, Split
from jobs.errors import InputError
from jobs.prepare.archives import Pair
from jobs.prepare.row_files import RowFiles

NORMALIZATION_OF_BYTES = Normalization(rule="type-range", offset=0.0, scale=1 / 255)

_DIGEST_BYTES = 16  # 128 bits: two different images never collide by chance
_EXAMPLES = 10
_MOST_ROWS = 100_000  # of duplicates: a manifest of 1 MB
_LARGEST_VALUE = 1e100  # its square, summed over any archive, is still a float64


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
    """The survey of a range of rows. `digests`: 16 bytes per row."""

    moments: Moments
    digests: bytes


def survey(pair: Pair, rows: NDArray[Any]) -> Survey:
    """Survey the images of rows (int64 [n], n ≥ 1). Raises InputError, with file and row, for unusable values."""
    images = pair.read_images(rows)
    values = np.ascontiguousarray(images).reshape(len(images), -1)
    if values.dtype.kind == "f":
        usable = (np.abs(values) <= _LARGEST_VALUE).all(axis=1)  # false for NaN
        if not usable.all():
            raise InputError(
                f"{pair.image_archive}: row {rows[int(np.argmin(usable))]}: found a value that is not finite or beyond "
                f"±{_LARGEST_VALUE:g}, expected numbers; fix: correct or leave out that image"
            )
    digests = image_digests(values)
    return Survey(_moments(values), digests)


def image_digests(values: NDArray[Any]) -> bytes:
    """Return 16 bytes per row of a contiguous array [n, values]: equal for equal rows, and for no others."""
    return b"".join(hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in values)


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
    """The merged surveys of a whole dataset: what its manifest states about the images."""

    pixels: PixelStatistics
    normalization: Normalization
    duplicates: Duplicates


def merge(rows: RowFiles, surveys: Mapping[Split, Sequence[Survey]], stored: np.dtype[Any]) -> Findings:
    """Merge the surveys of each split, given in row order. `stored`: the images' dtype in the archive."""
    moments = {split: reduce(Moments.__add__, [each.moments for each in surveys[split]], NOTHING) for split in SPLITS}
    digests = {split: b"".join(each.digests for each in surveys[split]) for split in SPLITS}
    rule = _normalization(stored, moments["train"] + moments["validation"])
    return Findings(
        pixels=pixel_statistics(moments["train"], rule),
        normalization=rule,
        duplicates=duplicates(
            np.concatenate([rows.whole("train"), rows.whole("validation")]),
            digests["train"] + digests["validation"],
            rows.whole("test"),
            digests["test"],
        ),
    )


def pixel_statistics(moments: Moments, rule: Normalization) -> PixelStatistics:
    """Return the statistics of normalized pixels from the moments of the stored values."""
    return PixelStatistics(
        mean=(moments.mean - rule.offset) * rule.scale,
        std=float(np.sqrt(moments.squares / moments.count)) * rule.scale,
        min=(moments.min - rule.offset) * rule.scale,
        max=(moments.max - rule.offset) * rule.scale,
    )


def _normalization(stored: np.dtype[Any], seen: Moments) -> Normalization:
    if stored == np.uint8:
        return NORMALIZATION_OF_BYTES
    extent = seen.max - seen.min
    return Normalization(rule="train-range", offset=seen.min, scale=1 / extent if extent else 1.0)


def duplicates(rows: NDArray[Any], training: bytes, test_rows: NDArray[Any], test: bytes) -> Duplicates:
    """Find test images among training images by digest. `rows`, `test_rows`: the `index` of each digest's image."""
    in_test = set(_split(test))
    first_seen: dict[bytes, int] = {}
    for position, digest in enumerate(_split(training)):
        if digest in in_test:
            first_seen.setdefault(digest, int(rows[position]))
    pairs = [
        (int(test_rows[position]), first_seen[digest])
        for position, digest in enumerate(_split(test))
        if digest in first_seen
    ]
    return Duplicates(
        test_images_in_train=len(pairs),
        test_rows=tuple(row for row, _ in pairs) if len(pairs) <= _MOST_ROWS else (),
        examples=tuple(pairs[:_EXAMPLES]),
    )


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[i : i + _DIGEST_BYTES] for i in range(0, len(digests), _DIGEST_BYTES))
