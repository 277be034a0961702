"""Which images count as nearly constant."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from jobs.prepare import idx
from jobs.prepare.findings.constant import constant_images
from jobs.prepare.findings.sketch import MOST_SPREAD, sketch_images, spreads
from tests.support.real_data import fashion


def nearly_constant(images: NDArray[Any]) -> list[int]:
    """Return the rows of images float [n, height, width] that are nearly constant."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    zeros = np.zeros(len(flat), np.int32)
    sketch = sketch_images(flat, zeros, zeros, (images.shape[1], images.shape[2], 1))
    _, found = constant_images(sketch, sketch.highs == sketch.lows, flat.shape[1])
    assert found.kind == "near-constant"
    rows: list[int] = found.rows.tolist()
    return rows


def pictures(rows: int = 100) -> NDArray[Any]:
    return np.random.default_rng(0).random((rows, 28, 28))


@pytest.mark.parametrize(("specks", "is_found"), [(1, True), (3, True), (4, False)])
def test_a_speck_is_at_most_1_of_200_values(specks: int, is_found: bool) -> None:
    images = pictures()
    images[7] = 0
    images[7, 3, :specks] = 1
    assert nearly_constant(images) == [7] * is_found


@pytest.mark.parametrize(("noise", "is_found"), [(0.01, True), (0.04, False)])
def test_noise_is_faint_if_it_is_hardly_seen(noise: float, is_found: bool) -> None:
    images = pictures()
    images[7] = np.random.default_rng(1).normal(0.6, noise, (28, 28))
    assert nearly_constant(images) == [7] * is_found


def test_an_image_is_no_finding_if_all_have_as_little_contrast() -> None:
    images = 0.5 + 0.02 * pictures()
    assert nearly_constant(images) == []
    images[7] = 0.5 + 0.001 * pictures(1)[0]
    assert nearly_constant(images) == [7]


def test_images_of_few_values_often_agree_by_chance_and_are_no_finding() -> None:
    assert nearly_constant(np.random.default_rng(0).random((1000, 1, 4))) == []


def test_fashions_darkest_pictures_are_pictures() -> None:
    images = idx.read(fashion() / "t10k-images-idx3-ubyte.gz") / 255
    assert nearly_constant(images) == []
    images[7] *= 0.04
    assert nearly_constant(images) == [7]


@given(arrays(np.float32, (1, 400), elements=st.floats(0, 1, width=32)))
def test_no_image_that_is_nearly_constant_escapes_the_test_of_its_contrast(images: NDArray[Any]) -> None:
    distances = np.sort(np.abs(images - np.median(images)))[:, -3]  # 2 of 400 values may be anything
    limited = spreads(images, images.std(axis=1))
    assert limited == distances or (np.isinf(limited) and distances > MOST_SPREAD)
