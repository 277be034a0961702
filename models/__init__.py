"""Architectures, one per file, found by file name: plain Keras for one device, without Horovod, input or output.

Each module has `build(images, classes, dropout)`. It takes a symbolic batch of images [batch, height, width, channels],
float32 in [0, 1] or standardized, and returns float32 logits [batch, classes]. `dropout` is a rate in [0, 1), or None
for the architecture's own.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def names() -> list[str]:
    """Return the names of all architectures without importing them."""
    return sorted(module.name for module in iter_modules(__path__) if not module.ispkg)


def build(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    dropout: float | None = None,
    standardize: tuple[float, float] | None = None,
) -> Any:
    """Return a keras.Model from images [batch, *shape] in [0, 1] to logits [batch, classes].

    `standardize`: mean and std of the training pixels. Standardizing is part of the model, so that no later user can
    forget it. None leaves the pixels in [0, 1].
    """
    import keras

    images = keras.Input(shape, name="image", dtype="float32")
    x = images
    if standardize is not None:
        mean, std = standardize
        x = keras.layers.Rescaling(1 / std, -mean / std, name="standardize")(x)
    logits = import_module(f"models.{name}").build(x, classes, dropout)
    return keras.Model(images, logits, name=name)
