"""The test images through the trained model: the stage's only use of TensorFlow, imported when it is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import InputError
from jobs.model_file.load import load_keras
from jobs.progress import Progress

_SUM_TOLERANCE = 1e-3  # of a row of probabilities: float32 sums of many classes are not exactly 1


@dataclass(frozen=True)
class Predictions:
    """The test set and what the model makes of it, one row an image, in shard order.

    `images`: float32 [rows, height, width, channels] in [0, 1]. `labels`: int32 [rows]. `indices`: int64 [rows], the
    image's place in its archive. `probabilities`: float32 [rows, classes].
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    indices: NDArray[Any]
    probabilities: NDArray[Any]


def load_model(path: Path, shape: tuple[int, int, int], classes: int) -> Any:
    """Return the keras.Model of a file, without running any code that the file may carry.

    Raises InputError unless it maps float32 [batch, *shape] to float32 [batch, classes].
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    # The same model must give the same figures each time, and float32 ones: no TF32, no order that varies.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    model = load_keras(path, "train it again")
    _check_ends(path, "takes", getattr(model, "inputs", None), (None, *shape))
    _check_ends(path, "puts out", getattr(model, "outputs", None), (None, classes))
    return model


def _check_ends(path: Path, verb: str, tensors: Any, shape: tuple[int | None, ...]) -> None:
    found = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors or ()]
    if found != [(shape, "float32")]:
        has = " and ".join(f"{dtype} {_in_words(dims)}" for dims, dtype in found) or "nothing known"
        raise InputError(
            f"{path}: {verb} {has}, but the dataset needs float32 {_in_words(shape)}; train it again on this dataset"
        )


def _in_words(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('batch' if size is None else str(size) for size in shape)}]"


def predict(model: Any, images: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Return a model's probabilities, float32 [rows, classes], for images float32 [rows, height, width, channels].

    Each image goes through once, in order, nothing padded. Raises InputError where what comes out are no probabilities.
    """
    import tensorflow as tf

    # One graph for every batch, the last and smaller one too.
    signature = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[signature])
    probabilities = np.empty((len(images), model.output_shape[-1]), np.float32)
    with Progress("evaluate", len(images), "images") as progress:
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            probabilities[start:stop] = forward(images[start:stop]).numpy()
            progress.update(stop)
    check_probabilities(probabilities)
    return probabilities


def check_probabilities(probabilities: NDArray[Any]) -> None:
    """Raise InputError unless each row, float32 [rows, classes], holds probabilities that sum to 1."""
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # Written so that NaN, which fails every comparison, counts as bad.
    good = (probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"the model's output for test row {row} is not a probability for each class (sum {sums[row]:.6g}, lowest "
            f"{probabilities[row].min():.6g}); a trained model ends with a softmax: train it again"
        )
