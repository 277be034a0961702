"""Bring arrays of images into the form that a network takes. What the values mean depends on their type alone:

- Integers are as an archive stores them: in the values, and lying as the archives that the model was trained on.
- Floating-point numbers are as the network takes them: upright, in [0, 1].
- An IDX archive is as stored, whatever its type.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.orientation import Orientation
from jobs.prepare.decode import normalize
from jobs.prepare.orientation import upright, upright_shape


def by_type(images: NDArray[Any], manifest: Manifest, orientation: Orientation | None, source: str) -> NDArray[Any]:
    """Return images as the network takes them: float32 [n, height, width, channels] in [0, 1].

    `images`: [n, height, width], with channels last, or [n, values]; as above. `manifest`: of the model's dataset.
    `orientation`: of integers, None for that of the manifest. `source`: in messages. Raises InputError for another
    shape or type, and for values out of range.
    """
    if images.dtype.kind in "iu":
        return as_stored(images, manifest, orientation, source)
    if images.dtype.kind != "f":
        raise InputError(f"{source}: found an array of {images.dtype}, expected numbers; fix: convert it to uint8")
    if orientation:
        raise InputError(
            f"--orientation: found {orientation} for {images.dtype} in {source}, which lies upright, expected none; "
            "fix: leave it out, or give integers"
        )
    shaped = _shaped(images, manifest, "none", source)
    low, high = (float(shaped.min()), float(shaped.max())) if shaped.size else (0.0, 1.0)
    if not (low >= 0 and high <= 1):  # also where there is a NaN
        raise InputError(
            f"{source}: found {images.dtype} from {low:g} to {high:g}, expected 0 to 1; fix: scale it, or give the "
            "values that archives store, as integers"
        )
    return np.ascontiguousarray(shaped, np.float32)


def as_stored(images: NDArray[Any], manifest: Manifest, orientation: Orientation | None, source: str) -> NDArray[Any]:
    """Return images as the network takes them, as `by_type` does, from values of any type as archives store them."""
    turn = orientation or manifest.orientation
    values = _shaped(images, manifest, turn, source)
    if manifest.normalization.rule == "type-range" and values.dtype != np.uint8:
        values = _bytes(values, source)
    return normalize(np.ascontiguousarray(upright(values, turn)), manifest.normalization)


def _shaped(images: NDArray[Any], manifest: Manifest, orientation: Orientation, source: str) -> NDArray[Any]:
    """Return images as [n, height, width, channels] before they are turned upright."""
    height, width, channels = stored = stored_shape(manifest, orientation)
    fits = [stored, (prod(stored),)] + ([(height, width)] if channels == 1 else [])
    if images.shape[1:] not in fits:
        found = " x ".join(map(str, images.shape)) or "a single number"
        raise InputError(
            f"{source}: found an array of {found}, expected n x {' x '.join(map(str, stored))} (images, height, width, "
            "channels), as the model was trained on; fix: give images of this size, a single one as image[None]"
        )
    return images.reshape(-1, *stored)


def stored_shape(manifest: Manifest, orientation: Orientation) -> tuple[int, int, int]:
    """Return height, width and channels of an image in archives that lie so."""
    return upright_shape(manifest.shape, orientation)  # a swap of both sides is its own inverse


def _bytes(values: NDArray[Any], source: str) -> NDArray[Any]:
    """Return values as uint8, the type of training's. Raises InputError unless that changes none."""
    small = values.astype(np.uint8) if values.dtype.kind in "iu" else None
    if small is None or not np.array_equal(small, values):
        extent = f" from {values.min():g} to {values.max():g}" if values.size else ""
        raise InputError(
            f"{source}: found {values.dtype}{extent}, expected integers from 0 to 255 as in training; fix: give the "
            "values that the training archives store"
        )
    return small
