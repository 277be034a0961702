"""Images are turned upright as the description's words say."""

import numpy as np
import pytest

from jobs.orientation import Orientation
from jobs.prepare.orientation import upright, upright_shape

# What each orientation makes of the picture
#   1 2 3
#   4 5 6
UPRIGHT: dict[Orientation, list[list[int]]] = {
    "none": [[1, 2, 3], [4, 5, 6]],
    "transpose": [[1, 4], [2, 5], [3, 6]],
    "anti-transpose": [[6, 3], [5, 2], [4, 1]],
    "rotate-90": [[3, 6], [2, 5], [1, 4]],  # counterclockwise
    "rotate-180": [[6, 5, 4], [3, 2, 1]],
    "rotate-270": [[4, 1], [5, 2], [6, 3]],
    "mirror": [[3, 2, 1], [6, 5, 4]],
    "flip": [[4, 5, 6], [1, 2, 3]],
}


@pytest.mark.parametrize(("orientation", "expected"), UPRIGHT.items())
def test_pictures_are_turned_and_their_channels_stay(orientation: Orientation, expected: list[list[int]]) -> None:
    picture = np.array([[1, 2, 3], [4, 5, 6]])
    images = np.stack([picture, 10 * picture])[..., None] * np.array([1, -1])
    turned = upright(images, orientation)
    assert turned.shape == (2, *upright_shape((2, 3, 2), orientation))
    assert turned[0, ..., 0].tolist() == expected
    assert (turned[1] == 10 * turned[0]).all()
    assert (turned[..., 1] == -turned[..., 0]).all()
