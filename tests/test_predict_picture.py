"""One picture in the form of the data: its values, size, channels and polarity, for data of every kind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.convert.export import encode
from jobs.convert.picture import BadPictureError
from jobs.dataset import Manifest, Normalization, PixelStatistics
from jobs.predict.picture import decoded, read_picture
from jobs.prepare.decode import normalize
from jobs.prepare.survey import NORMALIZATION_OF_BYTES
from tests.support.pictures import encoded, png_file, random_pixels
from tests.support.prepared import bare_manifest

UNSURE = PixelStatistics(mean=0.5, std=0.3, min=0, max=1)
GRAY, COLOR, PAIRS = (
    bare_manifest((6, 5, channels), 3).model_copy(update={"pixels": UNSURE}) for channels in (1, 3, 2)
)


def of_numbers(low: float, high: float) -> Manifest:
    """Return data whose type has no range of its own: training had values from low to high."""
    rule = Normalization(rule="train-range", offset=low, scale=1 / (high - low))
    return GRAY.model_copy(update={"normalization": rule})


def test_a_picture_of_eight_bits_has_the_bits_of_its_archive() -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(6, 5, 1) * 8
    expected = normalize(pixels, NORMALIZATION_OF_BYTES)
    image = decoded(png_file(pixels), GRAY)
    assert image.dtype == np.float32
    assert image.tobytes() == expected.tobytes()


@given(seed=st.integers(0, 2**32), low=st.integers(0, 100), width=st.integers(1, 60_000))
def test_an_exported_image_of_any_integer_type_has_the_bits_of_its_archive(seed: int, low: int, width: int) -> None:
    stored = np.random.default_rng(seed).integers(low, low + width, (6, 5, 1), np.int32, endpoint=True)
    manifest = of_numbers(low, low + width)
    image = read_picture(encode(stored, Path()), manifest, polarity="keep").image
    assert image.tobytes() == normalize(stored, manifest.normalization).tobytes()


def test_sixteen_bits_far_above_those_of_training_are_scaled_by_their_own_depth() -> None:
    pixels = np.full((6, 5, 1), 40_000, np.uint16)
    for manifest in (GRAY, of_numbers(0, 16), of_numbers(-1.5, 1)):
        assert np.allclose(decoded(png_file(pixels), manifest), 40_000 / 65_535)


def test_color_becomes_gray_by_luma_and_gray_three_channels() -> None:
    color = np.zeros((6, 5, 3), np.uint8)
    color[..., 1] = 255
    assert np.allclose(decoded(encoded(color), GRAY), 0.587, atol=0.003)
    gray = random_pixels(1, 6, 5)
    assert np.array_equal(decoded(encoded(gray), COLOR), np.repeat(gray[..., None] / np.float32(255), 3, axis=2))


def test_another_size_is_refused_with_both_sizes_or_resampled() -> None:
    data = encoded(np.full((12, 10), 51, np.uint8))
    with pytest.raises(BadPictureError, match=r"found 12 x 10 pixels \(height x width\), expected 6 x 5"):
        decoded(data, GRAY)
    assert np.allclose(decoded(data, GRAY, resize=True), np.full((6, 5, 1), 0.2))


@pytest.mark.parametrize(
    ("usual", "level", "is_inverted"), [(0.13, 250, True), (0.87, 20, True), (0.13, 150, False), (0.29, 250, False)]
)
def test_a_picture_is_inverted_only_where_both_means_are_sure(usual: float, level: int, is_inverted: bool) -> None:
    manifest = GRAY.model_copy(update={"pixels": UNSURE.model_copy(update={"mean": usual})})
    data = encoded(np.full((6, 5), level, np.uint8))
    picture = read_picture(data, manifest)
    assert picture.is_inverted is is_inverted
    assert np.allclose(picture.image, 1 - level / 255 if is_inverted else level / 255)
    assert np.allclose(read_picture(data, manifest, polarity="keep").image, level / 255)
    assert np.allclose(read_picture(data, manifest, polarity="invert").image, 1 - level / 255)


def test_transparent_pixels_need_a_background() -> None:
    data = encoded(np.zeros((6, 5, 4), np.uint8))
    with pytest.raises(BadPictureError, match="--background"):
        decoded(data, GRAY)
    assert (decoded(data, GRAY, background=255) == 1).all()


def test_a_model_of_two_channels_takes_no_pictures() -> None:
    with pytest.raises(BadPictureError, match="2 channels, expected 1 or 3"):
        decoded(encoded(np.zeros((6, 5), np.uint8)), PAIRS)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_refused_in_one_line(data: bytes) -> None:
    for start in (b"", encoded(np.zeros((6, 5), np.uint8))[:40]):
        reason = ""
        try:
            decoded(start + data, GRAY)
        except BadPictureError as error:
            reason = str(error)
        assert "\n" not in reason
