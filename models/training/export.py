"""The trained model as anyone can load it: Keras's own layers, float32, probabilities out."""

from typing import Any

import keras

from models.training.dropout import Dropout


def portable(model: Any) -> Any:
    """Return a copy of a model that needs none of this project's code: images [batch, H, W, C] in [0, 1] to float32
    probabilities [batch, classes].

    Keyed dropout becomes Keras's own (the same at inference) and every layer computes in float32.
    """

    def plain(layer: Any) -> Any:
        config = layer.get_config() | {"dtype": "float32"}
        kind = keras.layers.Dropout if isinstance(layer, Dropout) else type(layer)
        return kind.from_config(config)

    copy = keras.models.clone_model(model, clone_function=plain)
    copy.set_weights(model.get_weights())
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(copy.output)
    return keras.Model(copy.input, probabilities, name=model.name)
