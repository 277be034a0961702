"""Decode one picture to an array of pixels, exactly as it is stored or not at all.

- Gray stays gray, color stays color. A palette of grays is gray. Gray of 1, 2 or 4 bits is scaled to 0 to 255.
- 16-bit PNGs keep all 16 bits, gray or color.
- EXIF orientation is applied: the image lies as viewers show it.
- Opaque transparency is dropped. Pixels that are transparent need a background.
- CMYK becomes RGB by Pillow's formula. Color profiles and gamma are ignored.
- Resampling is Pillow's bicubic filter, which widens with the reduction, so that it does not alias. It stretches.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from jobs.errors import one_line

# No others: each decoder reads bytes that nobody vouches for. Imported here, as threads would do it at the same time.
_PLUGINS = (
    PngImagePlugin.PngImageFile,
    JpegImagePlugin.JpegImageFile,
    BmpImagePlugin.BmpImageFile,
    WebPImagePlugin.WebPImageFile,
)
FORMATS = tuple(each.format for each in _PLUGINS)
NOT_A_PICTURE = "not a picture"
MOST_PIXELS = 50_000_000  # 200 MB decoded; a picture that claims more is taken for a decompression bomb
_LUMA = np.array([299, 587, 114])  # in thousandths; ITU-R BT.601, as Pillow's mode "L"
_RESAMPLING = Image.Resampling.BICUBIC


class BadPictureError(Exception):
    """A picture that cannot be used. The message is the reason, on one line."""


def decode(
    data: bytes, size: tuple[int, int] | None = None, channels: int | None = None, background: int | None = None
) -> NDArray[Any]:
    """Return the pixels of a picture file, uint8 or uint16 [height, width, 1 or 3].

    `size`: (height, width) to resample to. `channels`: 1 or 3. `background`: the gray value behind transparent pixels,
    in 0 to 255. Raises BadPictureError.
    """
    try:
        pixels = _upright(*_stored(data))
    except BadPictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPictureError(f"found more than {MOST_PIXELS:,} pixels") from error
    except Exception as error:  # the decoders raise anything on damaged bytes
        raise BadPictureError(f"damaged ({one_line(error) or type(error).__name__})") from error
    pixels = _opaque(pixels, background)
    pixels = pixels if channels is None else _with_channels(pixels, channels)
    return pixels if size is None or pixels.shape[:2] == size else _resampled(pixels, size)


def _stored(data: bytes) -> tuple[NDArray[Any], int]:
    """Return the stored pixels [height, width, 1 to 4], a second or fourth being alpha, and EXIF's orientation."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadPictureError(f"{NOT_A_PICTURE} ({', '.join(map(str, FORMATS))})") from error
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise BadPictureError(f"found {image.width} x {image.height} pixels, expected at most {MOST_PIXELS:,}")
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a phone's JPEG: the first is the photograph
            raise BadPictureError("found several frames, expected one")
        pixels = _sixteen_bits(image, data) if _is_of_16_bits(image) else _eight_bits(image)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
    return pixels.reshape(*pixels.shape[:2], -1), orientation


def _is_of_16_bits(image: Any) -> bool:
    return image.format == "PNG" and bool(image.tile) and str(image.tile[0].args).endswith(";16B")


def _sixteen_bits(image: Any, data: bytes) -> NDArray[Any]:
    """Return uint16 pixels. Pillow has no image of 16-bit color: its decoder keeps the high byte of each value.

    Asked for little-endian values, the same decoder takes the low byte instead, so that two passes give both.
    """
    if "transparency" in image.info or image.tile[0].args == "LA;16B":
        raise BadPictureError("found 16 bits with transparency, expected none; remove it")
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    high = np.asarray(image)
    with Image.open(io.BytesIO(data), formats=FORMATS) as again:
        again.tile = [tile._replace(args=str(tile.args).replace(";16B", ";16L")) for tile in again.tile]
        low = np.asarray(again)
    return high.astype(np.uint16) << 8 | low


def _eight_bits(image: Any) -> NDArray[Any]:
    image.load()
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        has_alpha = image.mode == "PA" or "transparency" in image.info
        color = image.convert("RGBA" if has_alpha else "RGB")
        is_gray = (palette == palette[:, :1]).all()
        return np.asarray(color)[..., [0, 3] if has_alpha else [0]] if is_gray else np.asarray(color)
    if "transparency" in image.info:  # one color or gray value that is transparent
        gray = image.mode in ("1", "L")
        return np.asarray(image.convert("RGBA"))[..., [0, 3] if gray else [0, 1, 2, 3]]
    modes = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB"}
    if image.mode not in modes:
        raise BadPictureError(f"found pixels of Pillow's mode {image.mode}, expected one of {', '.join(modes)}")
    return np.asarray(image.convert(modes[image.mode]))


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels as viewers show them (source: EXIF 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _opaque(pixels: NDArray[Any], background: int | None) -> NDArray[Any]:
    if pixels.shape[2] in (1, 3):
        return pixels
    color, alpha = pixels[..., :-1], pixels[..., -1:].astype(np.int64)
    most = np.iinfo(pixels.dtype).max
    if (alpha == most).all():
        return color
    if background is None:
        raise BadPictureError("found transparent pixels; choose --background black or white")
    behind = background * (most // 255)
    mixed: NDArray[Any] = (color * alpha + behind * (most - alpha) + most // 2) // most
    return mixed.astype(pixels.dtype)


def _with_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=2)
    gray: NDArray[Any] = (pixels @ _LUMA + 500) // 1000
    return gray.astype(pixels.dtype)[..., None]


def _resampled(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    target = size[::-1]  # Pillow: width first
    if pixels.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        return np.asarray(image.resize(target, _RESAMPLING)).reshape(*size, -1)
    floats = (Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(pixels, 2, 0))
    planes = [np.asarray(plane.resize(target, _RESAMPLING)) for plane in floats]
    return np.rint(np.stack(planes, axis=2)).clip(0, 65535).astype(np.uint16)
