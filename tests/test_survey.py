"""The executors' surveys of ranges, against NumPy on whole archives."""

import re
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Duplicates, Split
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.archives import Pair
from jobs.prepare.digests import digests_in, repeated
from jobs.prepare.plan import even_ranges
from jobs.prepare.survey import NOTHING, Findings, Survey, merge, survey

TYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]
# Of 60 training and 20 test rows.
VALIDATION = np.arange(0, 60, 6)
ROWS: dict[Split, NDArray[Any]] = {
    "train": np.setdiff1d(np.arange(60), VALIDATION),
    "validation": VALIDATION,
    "test": np.arange(20),
}


def pair(folder: Path, images: NDArray[Any], labels: NDArray[Any]) -> Pair:
    """Write images and labels as plain archives of a pair that names .gz files as their source."""
    one, other = folder / "images", folder / "labels"
    idx.write(one, images)
    idx.write(other, labels)
    return Pair(
        images=one,
        labels=other,
        image_header=idx.read_header(one),
        label_header=idx.read_header(other),
        image_archive=folder / "images.gz",
        label_archive=folder / "labels.gz",
    )


def images_of(dtype: str, rows: int, seed: int = 0) -> NDArray[Any]:
    """Return images over the whole range of an integer type, or floats of very different sizes around 1,000."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (1000 + random.standard_cauchy((rows, 4, 5))).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, (rows, 4, 5), np.int64, endpoint=True).astype(dtype)


def labels_of(rows: int, classes: int = 3) -> NDArray[Any]:
    return (np.arange(rows) % classes).astype(np.uint8)


def findings(
    folder: Path, train: tuple[NDArray[Any], NDArray[Any]], test: tuple[NDArray[Any], NDArray[Any]], step: int
) -> Findings:
    """Survey both archives in ranges of `step` rows and merge."""
    for name in ("train", "test"):
        (folder / name).mkdir(exist_ok=True)
    pairs = {"train": pair(folder / "train", *train), "test": pair(folder / "test", *test)}
    pairs["validation"] = pairs["train"]
    surveys: dict[Split, list[Survey]] = {
        split: [survey(pairs[split], ROWS[split][slice(*bounds)]) for bounds in even_ranges(len(ROWS[split]), step)]
        for split in SPLITS
    }
    moments = {split: reduce(add, [each.moments for each in surveys[split]]) for split in SPLITS}
    digests = digests_in(b"".join(each.digests for split in SPLITS for each in surveys[split]))
    indices = np.concatenate([ROWS[split] for split in SPLITS])
    return merge(moments, indices, digests, train[0].dtype, len(ROWS["test"]))


# --- pixels


@pytest.mark.parametrize("dtype", TYPES)
def test_moments_agree_with_numpy(tmp_path: Path, dtype: str) -> None:
    images = images_of(dtype, 50)
    moments = survey(pair(tmp_path, images, labels_of(50)), np.arange(50)).moments
    wide = images.astype(np.float64)
    tolerance = 1e-12 if dtype == "uint8" else 1e-11
    assert moments.count == wide.size
    assert moments.mean == pytest.approx(wide.mean(), rel=tolerance, abs=1e-12)
    assert moments.squares == pytest.approx(((wide - wide.mean()) ** 2).sum(), rel=tolerance)
    assert (moments.min, moments.max) == (wide.min(), wide.max())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 1000))
@settings(deadline=None)
def test_moments_merged_in_pieces_equal_those_of_the_whole(sizes: list[int], seed: int) -> None:
    # Far from zero, where the textbook formula (mean of squares − square of mean) loses all digits.
    values = 1e6 + np.random.default_rng(seed).standard_normal(sum(sizes))
    merged = NOTHING
    for piece in np.split(values, np.cumsum(sizes)[:-1]):
        moments = replace(NOTHING, count=piece.size, mean=float(piece.mean()), min=float(piece.min()))
        merged += replace(moments, squares=float(((piece - piece.mean()) ** 2).sum()), max=float(piece.max()))
    assert merged.count == values.size
    assert merged.mean == pytest.approx(values.mean(), rel=1e-12)
    assert merged.squares == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-6, abs=1e-6)
    assert (merged.min, merged.max) == (values.min(), values.max())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_statistics_describe_the_normalized_train_split(tmp_path: Path, dtype: str, step: int) -> None:
    train, test = images_of(dtype, 60), images_of(dtype, 20, seed=1)
    merged = findings(tmp_path, (train, labels_of(60)), (test, labels_of(20)), step)
    wide = train.astype(np.float64)
    low, extent = (0.0, 255.0) if dtype == "uint8" else (wide.min(), wide.max() - wide.min())
    rule = "type-range" if dtype == "uint8" else "train-range"
    assert (merged.normalization.rule, merged.normalization.offset) == (rule, low)
    assert merged.normalization.scale == pytest.approx(1 / extent, rel=1e-15)
    scaled = (wide[ROWS["train"]] - low) / extent
    assert merged.pixels.mean == pytest.approx(scaled.mean(), rel=1e-12)
    assert merged.pixels.std == pytest.approx(scaled.std(), rel=1e-12)
    assert merged.pixels.min == pytest.approx(scaled.min(), rel=1e-12)
    assert merged.pixels.max == pytest.approx(scaled.max(), rel=1e-12)


def test_normalization_ignores_the_test_archive(tmp_path: Path) -> None:
    train = images_of("int16", 60) // 2
    test = np.full((20, 4, 5), 32767, np.int16)
    merged = findings(tmp_path, (train, labels_of(60)), (test, labels_of(20)), 10)
    assert merged.normalization.offset == train.min()
    assert merged.normalization.scale == 1 / (int(train.max()) - int(train.min()))


def test_constant_images_are_normalized_without_dividing_by_zero(tmp_path: Path) -> None:
    images = np.full((60, 2, 2), 7, np.int32)
    merged = findings(tmp_path, (images, labels_of(60)), (images[:20], labels_of(20)), 10)
    assert (merged.normalization.offset, merged.normalization.scale) == (7.0, 1.0)
    assert (merged.pixels.mean, merged.pixels.std) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_file_and_row(tmp_path: Path, dtype: str, value: float) -> None:
    images = images_of(dtype, 30)
    images[[17, 25], 1, 2] = value
    expected = (
        rf"{re.escape(str(tmp_path))}/images\.gz: row 17: found a value that is not finite.*, expected .*; fix: correct"
    )
    with pytest.raises(InputError, match=expected):
        survey(pair(tmp_path, images, labels_of(30)), np.arange(10, 30))


def test_a_value_too_large_for_statistics_is_refused(tmp_path: Path) -> None:
    images = images_of("float64", 30)
    images[3, 0, 0] = -1e200
    with pytest.raises(InputError, match=r"row 3: found a value that is not finite or beyond ±1e\+100"):
        survey(pair(tmp_path, images, labels_of(30)), np.arange(30))


def test_the_largest_float32_is_accepted(tmp_path: Path) -> None:
    images = np.zeros((60, 2, 2), np.float32)
    images[::2] = np.finfo(np.float32).max
    images[1] = np.finfo(np.float32).min
    merged = findings(tmp_path, (images, labels_of(60)), (images[:20], labels_of(20)), 10)
    assert merged.pixels.min == 0.0
    assert merged.pixels.max == pytest.approx(1.0, rel=1e-15)
    assert 0 < merged.pixels.std < 1


# --- duplicates


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
@settings(deadline=None)
def test_rows_that_occur_more_than_once_are_found_however_many_are_sorted_at_a_time(
    values: list[int], most: int
) -> None:
    digests = digests_in(b"".join(bytes([9, value, *bytes(13), value // 2]) for value in values))
    with patch("jobs.prepare.digests._BUCKET_ROWS", most):
        pieces = list(repeated(digests))
    found = [rows[groups == group].tolist() for rows, groups in pieces for group in np.unique(groups)]
    by_value = [[row for row, value in enumerate(values) if value == each] for each in set(values)]
    assert sorted(found) == sorted(rows for rows in by_value if len(rows) > 1)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_test_images_in_the_training_archive_are_found_by_row(tmp_path: Path, dtype: str, step: int) -> None:
    train, test = images_of(dtype, 60), images_of(dtype, 20, seed=1)
    train[32] = train[31]  # the first of two equal ones is named
    in_validation = int(ROWS["validation"][4])
    test[[3, 4, 19]] = train[[32, in_validation, 32]]
    merged = findings(tmp_path, (train, labels_of(60)), (test, labels_of(20)), step)
    examples = ((3, 31), (4, in_validation), (19, 31))
    assert merged.duplicates == Duplicates(test_images_in_train=3, test_rows=(3, 4, 19), examples=examples)


def test_at_most_ten_duplicates_are_listed(tmp_path: Path) -> None:
    images = images_of("uint8", 60)
    merged = findings(tmp_path, (images, labels_of(60)), (images[20:40], labels_of(20)), 6)
    assert merged.duplicates.test_images_in_train == 20
    assert merged.duplicates.examples == tuple((row, row + 20) for row in range(10))


def test_images_that_differ_in_one_pixel_are_not_duplicates(tmp_path: Path) -> None:
    images = images_of("uint8", 60)
    test = images[:20].copy()
    test[:, 0, 0] ^= 1
    merged = findings(tmp_path, (images, labels_of(60)), (test, labels_of(20)), 6)
    assert merged.duplicates.test_images_in_train == 0
