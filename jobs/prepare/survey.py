"""Survey the rows of an archive before anything is written.

Executors survey ranges of rows. The driver merges them in order, so no figure depends on which executor ran what.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Duplicates, Normalization, PixelStatistics, Split
from jobs.errors import InputError
from jobs.prepare.archives import Pair
from jobs.prepare.digests import image_digests, repeated

NORMALIZATION_OF_BYTES = Normalization(rule="type-range", offset=0.0, scale=1 / 255)

_EXAMPLES = 10
_NONE = np.empty(0, np.int64)
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


def merge(
    moments: Mapping[Split, Moments], indices: NDArray[Any], digests: NDArray[Any], stored: np.dtype[Any], tested: int
) -> Findings:
    """Merge the surveys of the splits. `stored`: the images' dtype in the archive. Others: as for `duplicates`."""
    rule = _normalization(stored, moments["train"] + moments["validation"])
    return Findings(
        pixels=pixel_statistics(moments["train"], rule),
        normalization=rule,
        duplicates=duplicates(indices, digests, tested),
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


def duplicates(indices: NDArray[Any], digests: NDArray[Any], tested: int) -> Duplicates:
    """Find test images among training images by digest.

    `indices`: the `index` of each image, int64 [n]. `digests`: void [n]. The last `tested` images are the test split.
    """
    training = len(digests) - tested
    of_test, of_training = [_NONE], [_NONE]
    for rows, groups in repeated(digests):
        first = rows[np.flatnonzero(np.diff(groups, prepend=-1))][groups]
        is_pair = (rows >= training) & (first < training)
        of_test.append(rows[is_pair])
        of_training.append(first[is_pair])
    seen, first_seen = np.concatenate(of_test), np.concatenate(of_training)
    order = np.argsort(seen)
    rows, first_rows = indices[seen[order]].tolist(), indices[first_seen[order]].tolist()
    return Duplicates(
        test_images_in_train=len(rows),
        test_rows=tuple(rows) if len(rows) <= _MOST_ROWS else (),
        examples=tuple(zip(rows[:_EXAMPLES], first_rows[:_EXAMPLES], strict=True)),
    )
