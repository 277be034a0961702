"""The lecture's convolutional network: two 5 × 5 convolutions, a wide dense layer, dropout.

Source: "Deep Learning In An Afternoon", Pittsburgh Supercomputing Center 2018, part (b): weights truncated normal with
std 0.1, biases 0.1, all ReLU. 3,274,634 parameters on MNIST.
"""

from typing import Any

from keras.initializers import Constant, TruncatedNormal
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D, ReLU

from models.training.dropout import Dropout
from models.training.types import Tensor


def build(images: Tensor, classes: int, dropout: float | None = None) -> Tensor:
    """Build the network; see `models`. Dropout before the logits: 0.5 by default."""

    def initial() -> dict[str, Any]:
        return {"kernel_initializer": TruncatedNormal(stddev=0.1), "bias_initializer": Constant(0.1)}

    x = Conv2D(32, 5, padding="same", name="conv1", **initial())(images)
    x = ReLU()(MaxPooling2D(2, padding="same")(x))
    x = Conv2D(64, 5, padding="same", name="conv2", **initial())(x)
    x = ReLU()(MaxPooling2D(2, padding="same")(x))
    x = Flatten()(x)
    x = Dense(1024, activation="relu", name="dense", **initial())(x)
    x = Dropout(0.5 if dropout is None else dropout, name="dropout")(x)
    return Dense(classes, dtype="float32", name="logits", **initial())(x)
