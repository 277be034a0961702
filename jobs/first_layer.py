"""The weights of a network's first layer as small images: what it looks for in the pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLUE, _WHITE, _ORANGE = np.array([[26, 95, 180], [255, 255, 255], [179, 72, 14]]) / 255

_FRAME = 0.8  # light gray


@dataclass(frozen=True)
class FirstLayer:
    """The first layer with weights. `layer`: Keras's. `is_convolution`: else it is dense, on the pixels.

    `kernels`: float32 [tiles, height, width, channels], one tile per filter of a convolution, or per output of a dense
    layer.
    """

    layer: Any
    is_convolution: bool
    kernels: NDArray[Any]


def first_layer(model: Any) -> FirstLayer | None:
    """Return a keras.Model's first layer with weights; None if it is neither a convolution nor dense on the pixels."""
    height, width, channels = model.input_shape[1:]
    layer = next((each for each in model.layers if each.weights), None)
    if layer is None:
        return None
    kernel = np.asarray(layer.weights[0])
    if kernel.ndim == 4 and kernel.shape[2] == channels:  # rows, columns, channels, filters
        return FirstLayer(layer, True, kernel.transpose(3, 0, 1, 2))
    if kernel.ndim == 2 and kernel.shape[0] == height * width * channels:
        return FirstLayer(layer, False, kernel.reshape(height, width, channels, -1).transpose(3, 0, 1, 2))
    return None


def colored(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return a kernel [height, width, channels] as an image, float [height, width, 3] in [0, 1].

    Of one channel: blue below 0, white at 0, orange above. Of three: each channel as a color, 0 as gray. Of others,
    their mean. The largest weight has the full color.
    """
    if kernel.shape[2] not in (1, 3):
        kernel = kernel.mean(axis=2, keepdims=True)
    scaled = kernel / max(float(np.abs(kernel).max()), 1e-12)
    if kernel.shape[2] == 3:
        return np.asarray((1 + scaled) / 2)
    return np.asarray(np.where(scaled < 0, _WHITE + -scaled * (_BLUE - _WHITE), _WHITE + scaled * (_ORANGE - _WHITE)))


def mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Return images side by side, in a frame of a gray pixel each: float [tiles, height, width, 3] to [h, w, 3]."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=_FRAME)
    columns = int(np.ceil(np.sqrt(len(framed))))
    framed = np.pad(framed, ((0, -len(framed) % columns), (0, 0), (0, 0), (0, 0)), constant_values=_FRAME)
    rows = [np.concatenate(list(framed[i : i + columns]), axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate(rows, axis=0)
