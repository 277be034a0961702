"""Bring one picture, as a user has it, into the form of the images that a model was trained on.

- It lies upright, as viewers show it: the `orientation` of the data is a matter of archives.
- Color becomes gray by luma, gray becomes three equal channels, as the model needs.
- Values are scaled by the picture's own depth: 255 or 65535 is 1. For data without a range of their own, such as int16,
  16-bit values up to twice the largest of training are taken as stored: so `convert` exports them, and so they differ
  in no bit from the archive's.
- Polarity: where the data are dark on average (a mean up to 0.25; MNIST's is 0.13) and the picture is bright (a mean
  from 0.75), it is inverted, and the other way round. Anything in between is left as it is: Fashion-MNIST's mean is
  0.29, and a bright shirt is not an inverted one. The brightest of MNIST's 70,000 images has a mean of 0.40.
- Another size is refused, or resampled by Pillow's bicubic filter, as `convert --size` does. It stretches.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.convert.picture import BadPictureError, decode
from jobs.dataset import Manifest
from jobs.prepare.decode import normalize

Polarity = Literal["auto", "keep", "invert"]

_SURE = 0.25  # a mean up to this is of light strokes on dark, and from 1 minus this of dark strokes on light


class Picture(NamedTuple):
    """A picture as the network takes it. `image`: float32 [height, width, channels] in [0, 1]."""

    image: NDArray[Any]
    is_inverted: bool


def decoded(data: bytes, manifest: Manifest, *, resize: bool = False, background: int | None = None) -> NDArray[Any]:
    """Return the pixels of a PNG, JPEG, BMP or WebP file as the network takes them.

    `manifest`: of the model's dataset. `resize`: resample another size. `background`: the gray value behind
    transparent pixels, 0 to 255. Returns float32 [height, width, channels] in [0, 1]. Raises BadPictureError for a file
    that is no usable picture, for another size without `resize`, and for transparency without a `background`.
    """
    return read_picture(data, manifest, resize=resize, background=background).image


def read_picture(
    data: bytes,
    manifest: Manifest,
    *,
    resize: bool = False,
    background: int | None = None,
    polarity: Polarity = "auto",
) -> Picture:
    """Return what `decoded` does, and whether it was inverted. `polarity`: whether to invert; "auto" where it is sure.

    Raises BadPictureError as `decoded` does.
    """
    height, width, channels = manifest.shape
    if channels not in (1, 3):
        raise BadPictureError(f"found a model for {channels} channels, expected 1 or 3 for pictures")
    pixels = decode(data, (height, width) if resize else None, channels, background)
    if pixels.shape != manifest.shape:
        found = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise BadPictureError(f"found {found} pixels (height x width), expected {height} x {width}")
    image = _scaled(pixels, manifest)
    is_inverted = polarity == "invert" or (polarity == "auto" and _is_opposite(image, manifest))
    return Picture(1 - image if is_inverted else image, is_inverted)


def _scaled(pixels: NDArray[Any], manifest: Manifest) -> NDArray[Any]:
    rule = manifest.normalization
    if pixels.dtype == np.uint16 and rule.rule == "train-range" and pixels.max() <= 2 * (rule.offset + 1 / rule.scale):
        return normalize(pixels, rule)
    most = np.iinfo(pixels.dtype).max
    return (pixels / most).astype(np.float32)


def _is_opposite(image: NDArray[Any], manifest: Manifest) -> bool:
    mean, usual = float(image.mean()), manifest.pixels.mean
    return (usual <= _SURE and mean >= 1 - _SURE) or (usual >= 1 - _SURE and mean <= _SURE)
