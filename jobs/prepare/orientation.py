"""Turn stored images upright."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.orientation import Orientation

_SWAPS = ("transpose", "anti-transpose", "rotate-90", "rotate-270")


def upright(images: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Return images [n, height, width, …] turned as `orientation` says: see `jobs.orientation`."""
    match orientation:
        case "none":
            return images
        case "transpose":
            return images.swapaxes(1, 2)
        case "anti-transpose":
            return np.rot90(images, 2, (1, 2)).swapaxes(1, 2)
        case "rotate-90" | "rotate-180" | "rotate-270":
            return np.rot90(images, int(orientation.removeprefix("rotate-")) // 90, (1, 2))
        case "mirror":
            return images[:, :, ::-1]
        case "flip":
            return images[:, ::-1]


def upright_shape(shape: tuple[int, int, int], orientation: Orientation) -> tuple[int, int, int]:
    """Return the height, width and channels of images after `upright`."""
    height, width, channels = shape
    return (width, height, channels) if orientation in _SWAPS else shape
