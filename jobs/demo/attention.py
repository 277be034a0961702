"""What a class depends on: occlusion.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014), section 4.2. A square of the image is
replaced by the color of the paper, and the fall of the class's log-odds is that of the square. This is what the network
does. Gradient × input, the cheaper choice, is zero on all empty pixels, where ink would change the class, and noise
where a probability is near 1. It costs one batch of a few hundred images.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.demo.network import Network

_MOST_SQUARES = 400  # images of the batch, about; of more positions, every second (third, …) is taken
_SHARE = 7  # a square's side is the image's divided by this: 4 pixels of 28
_LOWEST = 1e-7  # probability: smaller ones are float32's noise


def attention(network: Network, image: NDArray[Any], of: int) -> NDArray[Any]:
    """Return float32 [height, width] in [−1, 1]: where the image speaks for class `of` (positive), or against it.

    The strongest place is 1 or −1. All zeros if no square changes anything. `image`: float32 [height, width, channels].
    """
    height, width, _ = image.shape
    side = max(1, round(min(height, width) / _SHARE))
    step = 1
    while (-(-(height + side - 1) // step)) * (-(-(width + side - 1) // step)) > _MOST_SQUARES:
        step += 1
    # Squares begin beyond the edge, too, so that each pixel is covered by equally many.
    corners = [(y, x) for y in range(1 - side, height, step) for x in range(1 - side, width, step)]
    squares = [np.s_[max(0, y) : y + side, max(0, x) : x + side] for y, x in corners]
    images = np.repeat(image[None], len(squares) + 1, axis=0)
    for covered, square in zip(images[1:], squares, strict=True):
        covered[square] = _paper(image)
    odds = _log_odds(network.probabilities(images)[:, of])
    total, covers = np.zeros((2, height, width))
    for fall, square in zip(odds[0] - odds[1:], squares, strict=True):
        total[square] += fall
        covers[square] += 1
    mean = total / np.maximum(covers, 1)
    return (mean / max(np.abs(mean).max(), 1e-6)).astype(np.float32)


def _paper(image: NDArray[Any]) -> NDArray[Any]:
    """Return the color that covers: the median of the border, per channel."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    result: NDArray[Any] = np.median(border, axis=0)
    return result


def _log_odds(probability: NDArray[Any]) -> NDArray[Any]:
    clipped = np.clip(probability.astype(np.float64), _LOWEST, 1 - _LOWEST)
    result: NDArray[Any] = np.log(clipped / (1 - clipped))
    return result
