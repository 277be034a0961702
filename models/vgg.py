"""A small VGG: pairs of 3 × 3 convolutions, 32, 64 and 128 filters, each normalized.

After Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015), configuration
B made small, with batch normalization. The first two pairs are pooled before their second normalization, which then has
a quarter of the work. All convolutions but one have no padding, as the border of a centered digit is empty. 292,906
parameters on MNIST.
"""

from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D, ReLU

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization
from models.training.types import Tensor

# Pixels of height and width. The convolutions of smaller images are padded: without it, no pixels would be left.
_MIN_UNPADDED = 21


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. Dropout before the logits: 0.3 by default."""
    padding = "valid" if min(images.shape[1:3]) >= _MIN_UNPADDED else "same"
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


def _convolved(x: Tensor, filters: int, padding: str, name: str) -> Tensor:
    return Conv2D(filters, 3, padding=padding, use_bias=False, kernel_initializer="he_normal", name=name)(x)


def _normalized(x: Tensor, name: str) -> Tensor:
    return ReLU()(BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
