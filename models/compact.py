"""A small convolutional network that learns in few epochs: 24 and 32 filters, a dense layer of 256.

Pooling before the ReLU computes the same as after it, with a quarter of the ReLUs. The convolutions take no padding:
the rim of a centred digit is empty. 215,194 parameters on MNIST.
"""

from typing import Any

from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D, ReLU

from models.training.dropout import Dropout

_SMALLEST = 12  # height or width below which the layers would eat up the image, so that they are padded after all


def build(images: Any, classes: int, dropout: float | None = None) -> Any:
    """See `models`. Dropout: none unless given."""
    padding = "valid" if min(images.shape[1:3]) >= _SMALLEST else "same"
    x = Conv2D(24, 5, padding=padding, kernel_initializer="he_normal", name="conv1")(images)
    x = MaxPooling2D(2, padding="same")(x)
    x = ReLU()(x)
    x = Conv2D(32, 3, padding=padding, kernel_initializer="he_normal", name="conv2")(x)
    x = MaxPooling2D(2, padding="same")(x)
    x = ReLU()(x)
    x = Flatten()(x)
    x = Dense(256, activation="relu", kernel_initializer="he_normal", name="dense")(x)
    x = Dropout(dropout or 0.0, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)
