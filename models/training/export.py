"""Export a trained model so that plain Keras loads it: Keras's own layers, float32, probabilities as output."""

from typing import Any

import keras

from models.training.dropout import Dropout
from models.training.norm import BatchNormalization

_KERAS_OWN = {Dropout: keras.layers.Dropout, BatchNormalization: keras.layers.BatchNormalization}


def portable(model: Any) -> Any:
    """Return a copy of a model that needs no code of this project.

    It maps images [batch, height, width, channels] in [0, 1] to float32 probabilities [batch, classes]. Keyed dropout
    and global batch normalization become Keras's own, the same at inference. Every layer computes in float32.
    """

    def plain(layer: Any) -> Any:
        config = layer.get_config() | {"dtype": "float32"}
        return _KERAS_OWN.get(type(layer), type(layer)).from_config(config)

    copy = keras.models.clone_model(model, clone_function=plain)
    copy.set_weights(model.get_weights())
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(copy.output)
    return keras.Model(copy.input, probabilities, name=model.name)
