"""Softmax regression: one weight a pixel and class, all zero at first.

Source: "Deep Learning In An Afternoon", Pittsburgh Supercomputing Center 2018, part (a). 7,850 parameters on MNIST.
"""

from typing import Any

from keras.layers import Dense, Flatten


def build(images: Any, classes: int, dropout: float | None = None) -> Any:
    """See `models`. A linear model has nothing to drop: `dropout` is taken and has no effect."""
    x = Flatten()(images)
    return Dense(classes, kernel_initializer="zeros", bias_initializer="zeros", dtype="float32", name="logits")(x)
