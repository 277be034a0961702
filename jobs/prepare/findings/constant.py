"""Images that show nothing: of a single value, or of one but for a few specks and faint noise.

An image is nearly constant if all its values but 1 in 200 are within 0.05 of their median: 13 of 255 gray levels, which
is hardly seen. Of a dataset whose images all have little contrast, only those that stand apart are: the limit is then a
quarter of the typical contrast, the root of the images' mean variance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.findings.pairs import PairFinding
from jobs.prepare.findings.sketch import MOST_SPREAD, Sketch

_OF_CONTRAST = 0.25
_LEAST_VALUES = 64  # of an image: fewer are often alike by chance


def constant_images(sketch: Sketch, flat: NDArray[Any], values: int) -> list[PairFinding]:
    """Return the constant, then the nearly constant images, in row order. `flat`: bool [n]. `values`: of an image."""
    found = []
    if values > 1:  # an image of one value says nothing about it
        found += [PairFinding(kind="constant", row=row, other=-1) for row in np.flatnonzero(flat).tolist()]
    if values >= _LEAST_VALUES:
        typical = float(np.sqrt(np.mean(sketch.contrasts.astype(np.float64) ** 2)))
        nearly = ~flat & (sketch.spreads <= min(MOST_SPREAD, _OF_CONTRAST * typical))
        found += [
            PairFinding(kind="near-constant", row=row, other=-1, distance=float(sketch.spreads[row]))
            for row in np.flatnonzero(nearly).tolist()
        ]
    return found
