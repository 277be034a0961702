"""`jobs.convert.picture`: one picture becomes exactly its pixels, or the reason why not."""

import io
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jobs import png
from jobs.convert.picture import MOST_PIXELS, BadPictureError, decode
from tests.support.pictures import encoded, few_bits_png, png_file, random_pixels


@pytest.mark.parametrize("interlaced", [False, True], ids=["in-rows", "interlaced"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_of_8_or_16_bits_gives_exactly_its_pixels(channels: int, dtype: str, interlaced: bool) -> None:
    pixels = random_pixels(0, 11, 13, channels, dtype=dtype)
    for filters in ((0,), (1,), (2,), (3,), (4,), (4, 0, 3, 1, 2)):
        decoded = decode(png_file(pixels, filters, interlaced=interlaced))
        assert decoded.dtype == pixels.dtype
        assert (decoded == pixels).all()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_our_png_encoder_writes_exactly_the_pixels(channels: int, dtype: str) -> None:
    pixels = random_pixels(1, 7, 9, channels, dtype=dtype)
    assert (decode(png.encode(pixels)) == pixels).all()


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_lossless_forms_of_color_give_exactly_their_pixels(form: str) -> None:
    pixels = random_pixels(2, 8, 9, 3)
    assert (decode(encoded(pixels, form, lossless=True)) == pixels).all()  # only WebP has the option


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_gives_what_pillow_decodes(mode: str) -> None:
    data = encoded(random_pixels(3, 8, 9, 3), "JPEG", mode)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert (decode(data) == expected.reshape(8, 9, -1)).all()


def test_a_palette_of_grays_is_gray_and_any_other_is_color() -> None:
    gray = Image.fromarray(random_pixels(4, 5, 6))
    gray.putpalette([value for value in range(256) for _ in range(3)])
    color = Image.fromarray(random_pixels(5, 5, 6))
    color.putpalette(list(range(256)) * 3)
    for image, channels in ((gray, 1), (color, 3)):
        file = io.BytesIO()
        image.save(file, "PNG")
        decoded = decode(file.getvalue())
        assert (decoded == np.asarray(image.convert("RGB"))[..., :channels]).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_spans_the_whole_range(bits: int) -> None:
    values = [*range(2**bits)] * (8 // 2**bits or 1)
    assert decode(few_bits_png(values, bits)).flatten().tolist() == [value * 255 // (2**bits - 1) for value in values]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = Image.fromarray(random_pixels(6, 4, 7, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))))
    assert decode(file.getvalue()).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_opaque_alpha_is_dropped_and_transparency_needs_a_background(dtype: str) -> None:
    pixels = random_pixels(7, 5, 6, 4, dtype=dtype)
    most = np.iinfo(pixels.dtype).max
    pixels[..., 3] = most
    assert (decode(png_file(pixels)) == pixels[..., :3]).all()
    pixels[1, 2, 3] = 0
    with pytest.raises(BadPictureError, match="transparent pixels; choose --background"):
        decode(png_file(pixels))
    for background, value in ((0, 0), (255, most)):
        decoded = decode(png_file(pixels), background=background)
        assert (decoded[1, 2] == value).all()
        decoded[1, 2] = pixels[1, 2, :3]
        assert (decoded == pixels[..., :3]).all()


def test_half_transparent_gray_is_mixed_with_the_background() -> None:
    pixels = np.array([[[100, 51]]], np.uint8)  # alpha 51 of 255: a fifth
    assert decode(png_file(pixels), background=0).item() == 20
    assert decode(png_file(pixels), background=255).item() == 224


def test_a_transparent_color_of_a_png_counts_as_transparency() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=(1, 2, 3))
    with pytest.raises(BadPictureError, match="transparent"):
        decode(file.getvalue())
    assert decode(file.getvalue(), background=255).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_becomes_rgb() -> None:
    data = encoded(np.full((8, 8, 3), (200, 30, 90), np.uint8), "JPEG", "CMYK", quality=95)
    assert np.abs(decode(data).astype(int) - (200, 30, 90)).max() <= 4


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_channels_are_made_equal_on_request(dtype: str) -> None:
    color, gray = random_pixels(8, 5, 6, 3, dtype=dtype), random_pixels(9, 5, 6, 1, dtype=dtype)
    assert (decode(png_file(gray), channels=3) == gray).all()
    assert decode(png_file(gray), channels=3).shape == (5, 6, 3)
    luma = np.rint(color @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(decode(png_file(color), channels=1)[..., 0] - luma).max() <= 1
    assert (decode(png_file(gray.repeat(3, axis=2)), channels=1) == gray).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_resampling_is_pillows_bicubic_filter_and_keeps_16_bits(channels: int) -> None:
    pixels = random_pixels(10, 16, 12, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    expected = np.asarray(image.resize((9, 7), Image.Resampling.BICUBIC)).reshape(7, 9, channels)
    assert (decode(png_file(pixels), size=(7, 9)) == expected).all()
    wide = decode(png_file(pixels.astype(np.uint16) * 257), size=(7, 9))
    assert wide.dtype == np.uint16
    assert np.abs(wide / 257 - expected).max() <= 1


def corrupted(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


GRAY = png_file(random_pixels(11, 8, 8, 1))
FRAMES = [Image.fromarray(random_pixels(each, 8, 8, 3)) for each in range(2)]


def animation() -> bytes:
    file = io.BytesIO()
    FRAMES[0].save(file, "PNG", save_all=True, append_images=FRAMES[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a picture"),
        (b"no picture at all", "not a picture"),
        (GRAY[:60], "damaged"),
        (corrupted(GRAY, 50, GRAY[50] ^ 1), "damaged"),
        (encoded(random_pixels(12, 16, 16, 3), "JPEG")[:-200], "damaged"),
        (encoded(random_pixels(13, 8, 8, 3), "GIF"), "not a picture"),
        (animation(), "several frames"),
        (png_file(random_pixels(14, 3, 3, 2, dtype="u2")), "16 bits with transparency"),
    ],
    ids=["empty", "text", "cut", "bit-flip", "cut-jpeg", "gif", "animation", "gray-alpha-16"],
)
def test_what_cannot_be_used_is_named_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(BadPictureError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)  # no addresses: the same file gives the same line


@pytest.mark.filterwarnings("error")  # as in a conversion
def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    header = png_file(random_pixels(15, 1, 1, 1))
    side = int(MOST_PIXELS**0.5) + 1
    bomb = header[:16] + side.to_bytes(4, "big") * 2 + header[24:29]
    bomb += zlib.crc32(bomb[12:]).to_bytes(4, "big") + header[33:]
    with pytest.raises(BadPictureError, match=r"found .* pixels"):
        decode(bomb)


EDITS = st.lists(st.tuples(st.integers(8, 400), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, jpeg=st.booleans())
def test_any_damage_gives_a_picture_or_a_reason(edits: list[tuple[int, int]], jpeg: bool) -> None:
    data: Any = encoded(random_pixels(16, 8, 8, 3), "JPEG") if jpeg else png_file(random_pixels(16, 8, 8, 3))
    for at, value in edits:
        data = corrupted(data, at % len(data), value)
    with suppress(BadPictureError):
        pixels = decode(data, background=0)
        assert pixels.shape[2] in (1, 3)
        assert pixels.dtype in (np.uint8, np.uint16)
