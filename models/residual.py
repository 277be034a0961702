"""A small residual network: three stages of two residual blocks each, 16, 32 and 64 filters.

He et al., "Deep residual learning for image recognition" (2016), section 4.2 with two blocks per stage and shortcuts of
option B; batch normalization over the global batch. 176,090 parameters on MNIST.
"""

from keras.layers import Add, Conv2D, Dense, GlobalAveragePooling2D, ReLU

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization
from models.training.types import Tensor


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. Dropout before the logits: none by default."""
    x = ReLU()(_convolved(images, 16, 3, 1, "stem"))
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in (1, 2):
            x = _block(x, filters, 2 if stage > 1 and block == 1 else 1, f"stage{stage}_block{block}")
    x = GlobalAveragePooling2D()(x)
    x = Dropout(dropout or 0.0, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)


def _block(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """Return relu(x + f(x)), f being two normalized convolutions; x is convolved, too, if its size changes."""
    y = ReLU()(_convolved(x, filters, 3, stride, f"{name}_first"))
    y = _convolved(y, filters, 3, 1, f"{name}_second")
    if x.shape[-1] != filters or stride > 1:
        x = _convolved(x, filters, 1, stride, f"{name}_shortcut")
    return ReLU()(Add()([x, y]))


def _convolved(x: Tensor, filters: int, size: int, stride: int, name: str) -> Tensor:
    x = Conv2D(filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
