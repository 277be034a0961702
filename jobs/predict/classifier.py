"""A trained model, ready to classify images."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate.predict import load_model
from jobs.predict.model_file import ModelFile
from jobs.prepare.decode import normalize
from jobs.prepare.orientation import upright
from jobs.tensorflow_import import import_tensorflow


class Classifier:
    """The model of a ModelFile, loaded."""

    def __init__(self, file: ModelFile, log: Path) -> None:
        """Load the model, without running code from its file. `log`: where TensorFlow writes its messages.

        Raises InputError if the file is not the one that was recorded, or is no model for images of this shape.
        """
        import_tensorflow(log)
        self.file, self.manifest = file, file.manifest
        self.model: Any = load_model(file.path, file.manifest.shape, file.manifest.classes, file.sha256)
        self._forward = _graph(self.model)

    def normalized(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return images as the network takes them: float32 [n, height, width, channels] in [0, 1].

        `stored`: as in the archives that the model was trained on: their type, and before their `orientation`.
        """
        return normalize(np.ascontiguousarray(upright(stored, self.manifest.orientation)), self.manifest.normalization)

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each class, float32 [n, classes], for images as `normalized` returns them."""
        result: NDArray[Any] = self._forward(images).numpy()
        return result


def _graph(model: Any) -> Any:
    """Return a model's forward pass as one graph for batches of every size."""
    import tensorflow as tf

    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    return tf.function(lambda batch: model(batch, training=False), input_signature=[signature])
