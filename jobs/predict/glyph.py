"""Where the ink is in images of one glyph, and how wide its strokes are.

Pixels are squares: the first reaches from 0 to 1. No TensorFlow here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest

INK = 0.5  # a pixel from here on is ink when the edge of a stroke is sought
_TRACE = 0.1  # a pixel from here on belongs to the box: strokes fade at the edge
_PAPER = 0.1  # a border pixel counts as paper if it differs from its image's paper by at most this
_LEAST_PAPER = 0.8  # share of border pixels that are paper, in data of glyphs
_WIDEST_STROKE = 0.3  # of the box; MNIST's are 0.15, Fashion-MNIST's clothes 0.5
_MOST_IMAGES = 400  # to measure; their mean stroke width is then known to about 1 %
_FOLD = 4  # an image is enlarged this much before its strokes are measured


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a glyph lies in images of the data, in pixels. `box`: height and width of the box around the ink.

    `mass`, `middle`: (row, column) of the center of mass, and of the box's. `is_glyph`: there is ink on paper, in gray.
    `is_stroke`: the ink is strokes, so that their width means something.
    """

    shape: tuple[int, int, int]
    is_glyph: bool
    is_ink_bright: bool
    is_stroke: bool
    box: tuple[float, float]
    mass: tuple[float, float]
    middle: tuple[float, float]
    stroke_width: float


def unknown_form(manifest: Manifest) -> Form:
    """Return the form of data that are not here: the glyph in the middle, filling 5/7 of the image, as MNIST's do."""
    height, width, channels = manifest.shape
    center = (height / 2, width / 2)
    return Form(
        shape=manifest.shape,
        is_glyph=channels == 1,
        is_ink_bright=manifest.pixels.mean <= INK,
        is_stroke=False,
        box=(height * 5 / 7, width * 5 / 7),
        mass=center,
        middle=center,
        stroke_width=0.0,
    )


def measured(images: NDArray[Any], manifest: Manifest) -> Form:
    """Return the form of the data, measured on images float32 [n, height, width, channels] in [0, 1]."""
    unknown = unknown_form(manifest)
    if not unknown.is_glyph:
        return unknown
    gray = images[np.linspace(0, len(images) - 1, min(len(images), _MOST_IMAGES)).astype(int), ..., 0]
    border = np.concatenate([gray[:, 0], gray[:, -1], gray[:, :, 0], gray[:, :, -1]], axis=1)
    papers = np.median(border, axis=1)
    is_ink_bright = bool(np.median(papers) <= INK)
    ink = gray if is_ink_bright else 1 - gray
    boxes = [(each, box) for each in ink if (box := box_of(each)) is not None]
    is_glyph = bool((np.abs(border - papers[:, None]) <= _PAPER).mean() >= _LEAST_PAPER and boxes)
    if not is_glyph:
        return Form(**vars(unknown) | {"is_glyph": False})
    corners = np.array([box for _, box in boxes], np.float64)
    size = _usual_size(corners[:, 2:] - corners[:, :2])
    width = float(np.mean([stroke_width(each, box) for each, box in boxes]))
    mass = np.mean([center_of_mass(each) for each, _ in boxes], axis=0)
    middle = ((corners[:, :2] + corners[:, 2:]) / 2).mean(axis=0)
    return Form(
        shape=manifest.shape,
        is_glyph=True,
        is_ink_bright=is_ink_bright,
        is_stroke=width <= _WIDEST_STROKE * max(size),
        box=size,
        mass=(float(mass[0]), float(mass[1])),
        middle=(float(middle[0]), float(middle[1])),
        stroke_width=width,
    )


def _usual_size(sizes: NDArray[Any]) -> tuple[float, float]:
    """Return the height and width of the box that a glyph fills in one direction, from those of glyphs [n, 2]."""
    most = np.percentile(sizes, 95, axis=0)
    share = float(np.median((sizes / most).max(axis=1)))  # 1 in data that were all scaled into one box
    return float(most[0] * share), float(most[1] * share)


def box_of(ink: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """Return top, left, bottom, right (exclusive) of the ink, bright in [rows, columns]; None if there is none."""
    is_ink = ink >= _TRACE
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def center_of_mass(ink: NDArray[Any]) -> tuple[float, float]:
    """Return (row, column) of the center of mass of ink [rows, columns], which is not empty."""
    rows, columns = ink.sum(axis=1), ink.sum(axis=0)
    total = float(rows.sum())
    row = float(rows @ (np.arange(len(rows)) + 0.5)) / total
    column = float(columns @ (np.arange(len(columns)) + 0.5)) / total
    return row, column


def stroke_width(ink: NDArray[Any], box: tuple[int, int, int, int]) -> float:
    """Return the mean width of strokes in pixels: four times the mean distance of ink from its edge.

    Across a stroke of width w the distance rises from 0 to w / 2 and falls again: its mean is w / 4.
    """
    from PIL import Image
    from scipy.ndimage import distance_transform_edt

    top, left, bottom, right = box
    part = np.pad(ink[top:bottom, left:right], 1).astype(np.float32)
    # Both a small image of the data and a large drawing are measured at about the same number of pixels.
    scale = min(_FOLD, _FOLD * 28 / max(part.shape))
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    large = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
    is_ink = large >= INK
    if not is_ink.any():
        return 1.0
    distance = distance_transform_edt(is_ink)[is_ink] - 0.5
    return float(4 * distance.mean() / scale)
