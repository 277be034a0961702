"""The network of Keras's MNIST example: two 3 × 3 convolutions, one pooling, a dense layer of 128, two dropouts.

Source: the Keras example `mnist_cnn` (Keras 1 and 2; its authors report 99.25 % after 12 epochs). 1,199,882 parameters
on MNIST.
"""

from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D

from models.training.dropout import Dropout
from models.training.types import Tensor

# Pixels of height and width. The convolutions of smaller images are padded: without it, no pixels would be left.
_MIN_UNPADDED = 6


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. Dropout after the pooling and before the logits: 0.25 and 0.5 by default."""
    first, second = (0.25, 0.5) if dropout is None else (dropout, dropout)
    padding = "valid" if min(images.shape[1:3]) >= _MIN_UNPADDED else "same"
    x = Conv2D(32, 3, padding=padding, activation="relu", name="conv1")(images)
    x = Conv2D(64, 3, padding=padding, activation="relu", name="conv2")(x)
    x = MaxPooling2D(2, padding="same")(x)
    x = Dropout(first, name="dropout1")(x)
    x = Flatten()(x)
    x = Dense(128, activation="relu", name="dense")(x)
    x = Dropout(second, name="dropout2")(x)
    return Dense(classes, dtype="float32", name="logits")(x)
