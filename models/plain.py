"""A plain deep network: two stages of three normalized convolutions, the third of each in place of a pooling.

After the all-convolutional network of Springenberg et al., "Striving for simplicity" (2015), with batch normalization
and a dense layer of 128. 597,162 parameters on MNIST.
"""

from typing import Any

from keras.layers import Conv2D, Dense, Flatten, ReLU

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization


def build(images: Any, classes: int, dropout: float | None = None) -> Any:
    """See `models`. Dropout, after each stage and the dense layer: 0.4 unless given."""
    rate = 0.4 if dropout is None else dropout
    x = images
    for stage, filters in enumerate((32, 64), 1):
        x = _convolved(x, filters, 3, 1, f"stage{stage}_first")
        x = _convolved(x, filters, 3, 1, f"stage{stage}_second")
        x = _convolved(x, filters, 5, 2, f"stage{stage}_smaller")
        x = Dropout(rate, name=f"stage{stage}_dropout")(x)
    x = Flatten()(x)
    x = Dense(128, use_bias=False, kernel_initializer="he_normal", name="dense")(x)
    x = ReLU()(BatchNormalization(momentum=0.9, name="dense_norm")(x))
    x = Dropout(rate, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)


def _convolved(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
    x = Conv2D(filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return ReLU()(BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
