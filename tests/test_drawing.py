"""Fitting drawings: a glyph comes where the data have it, as large and as bold; each step can be switched off."""

import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from jobs.predict.drawing import Steps, fitted
from jobs.predict.glyph import Form, box_of, center_of_mass, measured, stroke_width
from jobs.prepare import idx
from tests.support.prepared import bare_manifest
from tests.support.redrawn import PLACES, SHEET, WIDTHS, drawn, middle_line

OFF = Steps(polarity="as-is", center="none", scale=False, thicken=False)


@pytest.fixture(scope="module")
def digits(mnist_dir: Path) -> NDArray[Any]:
    """MNIST's first training images, float32 [n, 28, 28, 1] in [0, 1]."""
    images = idx.read(next(mnist_dir.glob("train-images*")))[:300]
    return (images[..., None] / 255).astype(np.float32)


@pytest.fixture(scope="module")
def form(digits: NDArray[Any]) -> Form:
    return measured(digits, bare_manifest((28, 28, 1), 10))


def sheet(drawing: NDArray[np.uint8]) -> NDArray[Any]:
    return (drawing[..., None] / 255).astype(np.float32)


def test_the_form_of_mnist_is_what_its_authors_document(form: Form) -> None:
    """LeCun, Cortes and Burges: digits in a 20 × 20 box, their center of mass in the middle of 28 × 28 pixels."""
    assert form.box == (20, 20)
    assert form.mass == pytest.approx((14.5, 14.5), abs=0.1)  # the middle of the pixel (14, 14)
    assert (form.is_glyph, form.is_ink_bright, form.is_stroke) == (True, True, True)
    assert 2 < form.stroke_width < 3


def test_the_form_of_dark_ink_on_bright_paper_is_the_same(digits: NDArray[Any], form: Form) -> None:
    dark = measured(1 - digits, bare_manifest((28, 28, 1), 10))
    assert not dark.is_ink_bright
    assert dark.box == form.box
    assert dark.mass == pytest.approx(form.mass, abs=0.01)
    assert dark.stroke_width == pytest.approx(form.stroke_width, rel=0.01)


@pytest.mark.parametrize(("place", "width", "inverted"), [*product(PLACES, WIDTHS, (False, True))])
def test_a_digit_drawn_anywhere_comes_where_the_data_have_it(
    digits: NDArray[Any], form: Form, place: tuple[float, float], width: float, inverted: bool
) -> None:
    drawing = sheet(drawn(middle_line(digits[1, ..., 0]), width, place))  # a zero
    ink = fitted(1 - drawing if inverted else drawing, form, Steps())[..., 0]
    box = box_of(ink)
    assert box is not None
    assert max(box[2] - box[0], box[3] - box[1]) in (20, 21, 22)  # its edge may fall into the next pixel
    assert center_of_mass(ink) == pytest.approx(form.mass, abs=0.3)
    assert stroke_width(ink, box) == pytest.approx(form.stroke_width, rel=0.25)


@pytest.mark.parametrize(
    ("steps", "is_moved", "is_scaled", "is_widened", "is_inverted"),
    [
        (Steps(), True, True, True, True),
        (Steps(polarity="as-is", center="none", scale=False, thicken=False), False, False, False, False),
        (Steps(center="none"), False, True, True, True),
        (Steps(scale=False), True, False, True, True),
        (Steps(thicken=False), True, True, False, True),
    ],
)
def test_each_step_can_be_switched_off(
    form: Form, steps: Steps, is_moved: bool, is_scaled: bool, is_widened: bool, is_inverted: bool
) -> None:
    drawing = np.zeros((SHEET, SHEET, 1), np.float32)
    drawing[30:110, 40:46] = drawing[105:111, 40:80] = 1.0  # a small L, thin, near a corner
    ink = fitted(drawing, form, steps)[..., 0]
    box = box_of(ink)
    assert box is not None
    assert (box[2] - box[0] >= 19) == is_scaled
    assert (center_of_mass(ink)[1] > 12) == is_moved
    assert (float(ink.sum()) / (box[2] - box[0] + box[3] - box[1]) > 1.4) == is_widened
    bright = fitted(1 - drawing, form, steps)[..., 0]
    assert (np.abs(bright - ink).max() < 0.01) == is_inverted


def test_an_image_of_the_data_put_onto_the_sheet_pixel_by_pixel_stays_as_it_is(
    digits: NDArray[Any], form: Form
) -> None:
    for image in digits[:50]:
        large = image.repeat(10, axis=0).repeat(10, axis=1)
        np.testing.assert_array_equal(fitted(large, form, OFF), image)
        np.testing.assert_array_equal(fitted(large, form, Steps()), image)
        np.testing.assert_allclose(fitted(1 - large, form, Steps()), image, atol=1e-6)


def test_a_faint_photograph_on_uneven_paper_is_fitted_as_a_drawing(digits: NDArray[Any], form: Form) -> None:
    drawing = sheet(drawn(middle_line(digits[0, ..., 0]), 18, (0.5, 0.5)))
    paper = 0.7 + np.linspace(0, 0.1, SHEET)[:, None, None] + np.random.default_rng(0).normal(0, 0.01, drawing.shape)
    photograph = (paper * (1 - 0.6 * drawing)).astype(np.float32)
    fit, expected = (fitted(each, form, Steps()) for each in (photograph, drawing))
    assert np.abs(fit - expected).mean() < 0.02


def test_color_photographs_are_cropped_and_resampled_only() -> None:
    photographs = np.random.default_rng(0).random((40, 32, 32, 3), np.float32)
    form = measured(photographs, bare_manifest((32, 32, 3), 10))
    assert not form.is_glyph
    wide = np.zeros((60, 100, 3), np.float32)
    wide[:, 20:80] = (0.2, 0.4, 0.6)
    np.testing.assert_allclose(
        fitted(wide, form, Steps())[4:-4, 4:-4], np.full((24, 24, 3), (0.2, 0.4, 0.6)), atol=0.01
    )
    gray = fitted(np.full((50, 50, 1), 0.3, np.float32), form, Steps())
    np.testing.assert_allclose(gray, np.full((32, 32, 3), 0.3), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))),
    st.sampled_from([(28, 28, 1), (12, 20, 1), (5, 5, 3)]),
    st.builds(
        Steps,
        polarity=st.sampled_from(["auto", "as-is", "invert"]),
        center=st.sampled_from(["mass", "box", "none"]),
        scale=st.booleans(),
        thicken=st.booleans(),
    ),
)
def test_any_drawing_becomes_an_image_of_the_data(
    pixels: NDArray[np.uint8], shape: tuple[int, int, int], steps: Steps
) -> None:
    strokes = np.zeros((4, *shape), np.float32)
    strokes[:, 1:-1, 2] = 1.0
    fit = fitted((pixels / 255).astype(np.float32), measured(strokes, bare_manifest(shape, 3)), steps)
    assert fit.shape == shape
    assert fit.dtype == np.float32
    assert ((fit >= 0) & (fit <= 1)).all()


def test_a_long_thin_picture_takes_little_memory(form: Form) -> None:
    line = np.zeros((200, 60_000, 1), np.float32)
    line[100] = 1
    tracemalloc.start()
    image = fitted(line, form, Steps())
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()
    assert image.shape == form.shape
