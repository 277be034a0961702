"""Architectures, one a file, found by the file's name: plain Keras for one device, no Horovod, no input or output.

Each module here has `build(images, classes, dropout)`: from a symbolic batch of images [batch, height, width, channels]
(float32 in [0, 1], or standardized) to float32 logits [batch, classes]. `dropout` is a rate in [0, 1), or None for the
architecture's own.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def names() -> list[str]:
    """Return the names of all architectures, without importing any."""
    return sorted(module.name for module in iter_modules(__path__) if not module.ispkg)


def build(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    dropout: float | None = None,
    standardize: tuple[float, float] | None = None,
) -> Any:
    """Return a keras.Model from images [batch, *shape] in [0, 1] to logits [batch, classes].

    `standardize`: the (mean, deviation) of the training pixels, made part of the model so that nobody who uses it later
    can forget it; None leaves the pixels in [0, 1].
    """
    import keras

    images = keras.Input(shape, name="image", dtype="float32")
    x = images
    if standardize is not None:
        mean, deviation = standardize
        x = keras.layers.Rescaling(1 / deviation, -mean / deviation, name="standardize")(x)
    logits = import_module(f"models.{name}").build(x, classes, dropout)
    return keras.Model(images, logits, name=name)
