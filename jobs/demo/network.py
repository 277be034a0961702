"""Every layer of a trained network, computed by the very Keras model in one call."""

import json
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 8  # bytes: the numbers behind a frame's header may be used in place


class Layer(NamedTuple):
    """A layer, as Keras has it. `shape`: of its output, without the batch. `inputs`: names of the layers it reads."""

    name: str
    layer: Any
    shape: tuple[int, ...]
    inputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Keras's name of the class, e.g. "Conv2D"."""
        return type(self.layer).__name__

    @property
    def size(self) -> int:
        """The number of units."""
        return prod(self.shape)


class Network:
    """A keras.Model with one input of images and one output of probabilities, all of whose layers can be read."""

    def __init__(self, model: Any) -> None:
        """Trace the graph that computes every layer, and run it once, so that the first drawing is not slow."""
        self.model = model
        self.shape: tuple[int, int, int] = tuple(model.input_shape[1:])
        makers = {id(layer.output): layer.name for layer in model.layers}
        self.layers = {layer.name: _described(layer, makers) for layer in model.layers}
        self._every, self._classify = _graphs(model)
        blank = np.zeros(self.shape, np.float32)
        self.outputs(blank)
        self.probabilities(blank[None])

    def outputs(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the output of each layer, float32, for an image float32 [height, width, channels] in [0, 1]."""
        return self._split(self._numbers(image))

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return float32 [n, classes] for images float32 [n, height, width, channels]."""
        result: NDArray[Any] = self._classify(images).numpy()
        return result

    def frame(self, image: NDArray[Any]) -> bytes:
        """Return every layer's output as one message, without copies of the numbers in between.

        uint32 length of the header; the header, JSON: `probabilities`, and of each layer `name`, `shape`, `offset` (in
        bytes), `min`, `max`; zeros up to a multiple of 8 bytes; all outputs in this order, float32, little-endian.
        """
        numbers = self._numbers(image)
        outputs = self._split(numbers)
        layers, offset = [], 0
        for name, values in outputs.items():
            low, high = float(values.min()), float(values.max())
            layers.append({"name": name, "shape": values.shape, "offset": offset, "min": low, "max": high})
            offset += values.nbytes
        last = next(reversed(outputs.values()))
        header = json.dumps({"probabilities": last.tolist(), "layers": layers}).encode()
        padding = bytes(-(4 + len(header)) % _ALIGNMENT)
        return b"".join(
            [len(header).to_bytes(4, "little"), header, padding, numbers.astype("<f4", copy=False).tobytes()]
        )

    def _numbers(self, image: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = self._every(image[None]).numpy()
        return result

    def _split(self, numbers: NDArray[Any]) -> dict[str, NDArray[Any]]:
        ends = np.cumsum([layer.size for layer in self.layers.values()])[:-1]
        parts = zip(self.layers.values(), np.split(numbers, ends), strict=True)
        return {layer.name: values.reshape(layer.shape) for layer, values in parts}


def _described(layer: Any, makers: dict[int, str]) -> Layer:
    from keras import tree

    inputs = (
        () if type(layer).__name__ == "InputLayer" else tuple(makers[id(each)] for each in tree.flatten(layer.input))
    )
    return Layer(layer.name, layer, tuple(layer.output.shape[1:]), inputs)


def _graphs(model: Any) -> tuple[Any, Any]:
    """Return two graphs: from one image to every layer's output, one after another, and from images to probabilities.

    One tensor of all numbers leaves the first graph: fetching a hundred takes longer than a small network computes.
    """
    import keras
    import tensorflow as tf

    every = keras.Model(model.input, [layer.output for layer in model.layers])
    shape = model.input_shape[1:]

    def numbers(image: Any) -> Any:
        return tf.concat([tf.reshape(output, [-1]) for output in tf.nest.flatten(every(image, training=False))], axis=0)

    return (
        tf.function(numbers, input_signature=[tf.TensorSpec([1, *shape], tf.float32)]),
        tf.function(
            lambda images: model(images, training=False), input_signature=[tf.TensorSpec([None, *shape], tf.float32)]
        ),
    )
