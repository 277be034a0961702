"""Handwritten digits, drawn again with a pen: the middle line of each stroke, at another size, place and width."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

SHEET = 280  # pixels a side
WIDTHS = (10, 18, 28)  # pixels of the pen
PLACES = ((0.32, 0.32), (0.32, 0.66), (0.66, 0.36), (0.5, 0.5))  # of the middle, in shares of the sheet
_SIZE = 150  # pixels of the glyph's longer side, without the pen's width
_FOLD = 8  # an image is enlarged this much to find the middle of its strokes


def drawn(line: NDArray[np.bool_], width: float, place: tuple[float, float], size: float = _SIZE) -> NDArray[np.uint8]:
    """Return a drawing uint8 [SHEET, SHEET], white ink on black, along a `middle_line`."""
    points = np.argwhere(line).astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - (low + high) / 2) * size / max((high - low).max(), 1) + np.array(place) * SHEET
    paper = np.ones((SHEET, SHEET), bool)
    # Neighbors of the middle line are up to some pixels apart on the sheet: the pen moves straight between them.
    for start in _joined(points, scaled):
        row, column = np.rint(start).astype(int).clip(0, SHEET - 1).T
        paper[row, column] = False
    distance = distance_transform_edt(paper)
    return np.rint((width / 2 + 0.5 - distance).clip(0, 1) * 255).astype(np.uint8)


def middle_line(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the middle line of the strokes of an image float [height, width] in [0, 1], enlarged: one pixel wide."""
    size = (image.shape[1] * _FOLD, image.shape[0] * _FOLD)
    large = np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    # As little blur as keeps the line free of spurs: more of it closes small loops, and an 8 becomes a Y.
    return thinned(gaussian_filter(large, _FOLD / 6) >= 0.5)


def thinned(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ink worn down to lines of one pixel.

    Zhang and Suen, "A fast parallel algorithm for thinning digital patterns" (1984).
    """
    image = np.pad(ink, 1).astype(np.int8)
    offsets = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # clockwise from above
    is_changed = True
    while is_changed:
        is_changed = False
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            p = np.stack([np.roll(image, (-y, -x), (0, 1)) for y, x in offsets])
            neighbors = p.sum(axis=0)
            rises = ((p == 0) & (np.roll(p, -1, axis=0) == 1)).sum(axis=0)
            goes = (image == 1) & (neighbors >= 2) & (neighbors <= 6) & (rises == 1)
            goes &= (p[list(first)].prod(axis=0) == 0) & (p[list(second)].prod(axis=0) == 0)
            is_changed |= bool(goes.any())
            image[goes] = 0
    return image[1:-1, 1:-1].astype(bool)


def _joined(points: NDArray[Any], scaled: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the points of the sheet on the lines between neighboring points of the middle line, and the points."""
    at = {(int(y), int(x)): i for i, (y, x) in enumerate(points)}
    lines = [scaled]
    shares = np.linspace(0, 1, 9)[:, None]
    for (y, x), i in at.items():
        for neighbor in ((y, x + 1), (y + 1, x - 1), (y + 1, x), (y + 1, x + 1)):
            if neighbor in at:
                lines.append(scaled[i] + shares * (scaled[at[neighbor]] - scaled[i]))
    return lines
