"""A small residual network: three stages of two residual blocks each, 16, 32 and 64 filters.

He et al., "Deep residual learning for image recognition" (2016), section 4.2 with n = 1 and two blocks a stage, and the
shortcut of option B; batch normalization over the global batch. 176,090 parameters on MNIST.
"""

from typing import Any

from keras.layers import Add, Conv2D, Dense, GlobalAveragePooling2D, ReLU

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization


def build(images: Any, classes: int, dropout: float | None = None) -> Any:
    """See `models`. Dropout, before the logits: none unless given."""
    x = ReLU()(_convolved(images, 16, 3, 1, "stem"))
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in (1, 2):
            x = _block(x, filters, 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}")
    x = GlobalAveragePooling2D()(x)
    x = Dropout(dropout or 0.0, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)


def _block(x: Any, filters: int, stride: int, name: str) -> Any:
    """relu(x + f(x)), f two normalized convolutions; x itself is convolved where its size changes."""
    y = ReLU()(_convolved(x, filters, 3, stride, f"{name}_first"))
    y = _convolved(y, filters, 3, 1, f"{name}_second")
    if x.shape[-1] != filters or stride > 1:
        x = _convolved(x, filters, 1, stride, f"{name}_shortcut")
    return ReLU()(Add()([x, y]))


def _convolved(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
    x = Conv2D(filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
