"""Images that show nothing: of a single value, or of one but for a few specks and faint noise.

An image is nearly constant if all its values but 1 in 200 are within 0.05 of their median: 13 of 255 gray levels, which
is hardly seen. Of a dataset whose images all have little contrast, only those that stand apart are: the limit is then a
quarter of the typical contrast, the root of the images' mean variance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.findings.pairs import Found, of_images
from jobs.prepare.findings.sketch import MOST_SPREAD, Sketch

_OF_CONTRAST = 0.25
_LEAST_VALUES = 64  # of an image: fewer are often alike by chance


def constant_images(sketch: Sketch, flat: NDArray[Any], values: int) -> tuple[Found, Found]:
    """Return the constant and the nearly constant images, in row order. `flat`: bool [n]. `values`: of an image."""
    constant, nearly = np.empty(0, np.int64), np.empty(0, np.int64)
    if values > 1:  # an image of one value says nothing about it
        constant = np.flatnonzero(flat)
    if values >= _LEAST_VALUES:
        typical = float(np.sqrt(np.mean(sketch.contrasts.astype(np.float64) ** 2)))
        nearly = np.flatnonzero(~flat & (sketch.spreads <= min(MOST_SPREAD, _OF_CONTRAST * typical)))
    return of_images("constant", constant), of_images("near-constant", nearly, sketch.spreads[nearly])
