"""The lecture's CNN in Keras's own layers."""

from typing import Any

import keras
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D


def lecture_network() -> Any:
    """Return the model from images [batch, 28, 28, 1] to logits [batch, 10]."""

    def initial() -> dict[str, Any]:
        return {
            "kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.1),
            "bias_initializer": keras.initializers.Constant(0.1),
        }

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            Conv2D(32, 5, padding="same", activation="relu", **initial()),
            MaxPooling2D(2),
            Conv2D(64, 5, padding="same", activation="relu", **initial()),
            MaxPooling2D(2),
            Flatten(),
            Dense(1024, activation="relu", **initial()),
            Dropout(0.5),
            Dense(10, **initial()),
        ]
    )
