"""A wide VGG on whitened patches: three pairs of 3 × 3 convolutions with 64, 256 and 256 filters.

The first layer is fixed: a discrete cosine transform of patches of 2 × 2 pixels and all colors, each component
normalized. Neighboring pixels and colors of natural images are correlated, and this transform is near the one that
removes all correlation, so the network need not learn to: Ahmed et al., "Discrete cosine transform" (1974); for colors,
Ohta et al., "Color information for region segmentation" (1980). Both signs of each component are rectified: Shang et
al., "Understanding and improving convolutional neural networks via concatenated rectified linear units" (2016).

After Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU" (2024): the widths, the whitening (there computed from
the data), and the pooling before the first normalization of a pair, which then has a quarter of the work.
1,965,610 parameters on MNIST.
"""

from math import cos, pi, sqrt

import numpy as np
from keras.layers import Concatenate, Conv2D, Dense, GlobalMaxPooling2D, MaxPooling2D, ReLU, Rescaling
from numpy.typing import NDArray

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization
from models.training.types import Tensor

# Pixels of height and width. The layers of smaller images are padded: without it, no pixels would be left.
_MIN_UNPADDED = 16


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. Dropout before the logits: none by default."""
    padding = "valid" if min(images.shape[1:3]) >= _MIN_UNPADDED else "same"
    x = _whitened(images, padding)
    for stage, filters in enumerate((64, 256, 256), 1):
        x = MaxPooling2D(2, padding=padding)(_convolved(x, filters, f"stage{stage}_first"))
        x = _normalized(x, f"stage{stage}_first")
        x = _normalized(_convolved(x, filters, f"stage{stage}_second"), f"stage{stage}_second")
    x = GlobalMaxPooling2D()(x)
    x = Dropout(dropout or 0.0, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits")(x)


def cosine_basis(*sizes: int) -> NDArray[np.float32]:
    """Return the orthonormal basis of the discrete cosine transform (type II): [*sizes, components].

    Ahmed et al. (1974), equation 1, in each dimension.
    """
    basis = np.ones((1, 1))
    for n in sizes:
        one = [[sqrt((2 if k else 1) / n) * cos(pi * k * (i + 0.5) / n) for k in range(n)] for i in range(n)]
        basis = np.kron(basis, one)
    return basis.reshape(*sizes, -1).astype(np.float32)


def _whitened(images: Tensor, padding: str) -> Tensor:
    """Return both signs of each patch's components, all with variance 1, rectified."""
    basis = cosine_basis(2, 2, images.shape[-1])
    transform = Conv2D(basis.shape[-1], 2, padding=padding, use_bias=False, trainable=False, name="patches")
    x = transform(images)
    transform.kernel.assign(basis)
    x = BatchNormalization(momentum=0.9, name="patches_norm")(x)
    return ReLU()(Concatenate()([x, Rescaling(-1.0)(x)]))


def _convolved(x: Tensor, filters: int, name: str) -> Tensor:
    return Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)


def _normalized(x: Tensor, name: str) -> Tensor:
    return ReLU()(BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
