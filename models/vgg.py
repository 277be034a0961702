"""A small VGG: pairs of 3 × 3 convolutions, 32, 64 and 128 filters, each normalized.

After Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015), configuration
B in small, with batch normalization. The first two pairs are pooled before their second normalization, which then has a
quarter to do. But for one, the convolutions take no padding: the rim of a centred digit is empty. 292,906 parameters on
MNIST.
"""

from typing import Any

from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D, ReLU

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization

_SMALLEST = 21  # height or width below which the layers would eat up the image, so that they are padded after all


def build(images: Any, classes: int, dropout: float | None = None) -> Any:
    """See `models`. Dropout, before the logits: 0.3 unless given."""
    padding = "valid" if min(images.shape[1:3]) >= _SMALLEST else "same"
    x = images
    for stage, filters in enumerate((32, 64), 1):
        x = _normalized(_convolved(x, filters, padding, f"stage{stage}_first"), f"stage{stage}_first")
        x = MaxPooling2D(2, padding="same")(_convolved(x, filters, padding, f"stage{stage}_second"))
        x = _normalized(x, f"stage{stage}_second")
    x = _normalized(_convolved(x, 128, "same", "stage3_first"), "stage3_first")
    x = _normalized(_convolved(x, 128, padding, "stage3_second"), "stage3_second")
    x = Flatten()(x)
    x = Dropout(0.3 if dropout is None else dropout, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)


def _convolved(x: Any, filters: int, padding: str, name: str) -> Any:
    return Conv2D(filters, 3, padding=padding, use_bias=False, kernel_initializer="he_normal", name=name)(x)


def _normalized(x: Any, name: str) -> Any:
    return ReLU()(BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
