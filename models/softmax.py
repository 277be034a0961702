"""Softmax regression: a weight per pixel and class, initially zero.

Source: "Deep Learning In An Afternoon", Pittsburgh Supercomputing Center 2018, part (a). 7,850 parameters on MNIST.
"""

from keras.layers import Dense, Flatten

from models.training.types import Tensor


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. `dropout` has no effect: a linear model has nothing to drop."""
    x = Flatten()(images)
    return Dense(classes, kernel_initializer="zeros", bias_initializer="zeros", dtype="float32", name="logits")(x)
