"""Run images through the trained model: the stage's only use of TensorFlow, imported when needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.batches import read_images
from jobs.dataset import Manifest, Split
from jobs.errors import InputError
from jobs.model_file.load import load_keras
from jobs.progress import Progress

_SUM_TOLERANCE = 1e-3  # of a row of probabilities: sums of many float32 values are not exactly 1


def load_model(path: Path, shape: tuple[int, int, int], classes: int, sha256: str = "") -> Any:
    """Return the keras.Model of a file, without running any code in it.

    `sha256`: of the file, if it is to be checked. Raises InputError if it differs, and unless the model maps float32
    [batch, *shape] to float32 [batch, classes].
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    # The same model must give the same float32 figures each time: no TF32, no varying order of operations.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    model = load_keras(path, "train it again", sha256)
    _check_interface(path, "takes", getattr(model, "inputs", None), (None, *shape))
    _check_interface(path, "returns", getattr(model, "outputs", None), (None, classes))
    return model


def _check_interface(path: Path, verb: str, tensors: Any, shape: tuple[int | None, ...]) -> None:
    actual = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors or ()]
    if actual != [(shape, "float32")]:
        listed = " and ".join(f"{dtype} {_shown(dims)}" for dims, dtype in actual) or "nothing known"
        raise InputError(
            f"{path}: found a model that {verb} {listed}, expected float32 {_shown(shape)} as in the dataset; "
            "fix: train it again on this dataset"
        )


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('batch' if size is None else str(size) for size in shape)}]"


class Forward:
    """A model's forward pass: one graph for every batch, the smaller last one too."""

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
        self._graph = tf.function(lambda batch: model(batch, training=False), input_signature=[signature])
        self._classes = model.output_shape[-1]

    def __call__(
        self, images: NDArray[Any], batch_size: int, on_done: Callable[[int], None] = lambda done: None
    ) -> NDArray[Any]:
        """Return the probabilities, float32 [rows, classes], of images float32 [rows, height, width, channels].

        Evaluates each image once, in order, without padding. `on_done`: gets the number of images done, batch by batch.
        Raises InputError if the output is not probabilities.
        """
        probabilities = np.empty((len(images), self._classes), np.float32)
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            probabilities[start:stop] = self._graph(images[start:stop]).numpy()
            on_done(stop)
        check_probabilities(probabilities)
        return probabilities

    def stream(
        self, directory: Path, manifest: Manifest, split: Split, batches: Sequence[range]
    ) -> Iterator[NDArray[Any]]:
        """Yield the probabilities, float32 [rows, classes], of each of these batches of a dataset's split.

        `batches`: as in `jobs.batches.read_images`. Holds one batch in memory. Raises InputError as a call does.
        """
        for batch, images in zip(batches, read_images(directory, manifest, split, batches), strict=True):
            probabilities: NDArray[Any] = self._graph(images).numpy()
            check_probabilities(probabilities, partial(_row_in_words, split, batch.start))
            yield probabilities


def _row_in_words(split: Split, first: int, row: int) -> str:
    return f"{split} row {first + row}"


def predict(model: Any, images: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Return what `Forward` does, and show the progress."""
    with Progress("evaluate", len(images), "images") as progress:
        return Forward(model)(images, batch_size, progress.update)


def shown(blocks: Iterable[NDArray[Any]], progress: Progress) -> Iterator[NDArray[Any]]:
    """Yield arrays of rows as they come, and show how many rows are done."""
    done = 0
    for block in blocks:
        done += len(block)
        progress.update(done)
        yield block


def check_probabilities(probabilities: NDArray[Any], rows: Callable[[int], str] = "test row {}".format) -> None:
    """Raise InputError unless each row, float32 [rows, classes], holds probabilities that sum to 1.

    `rows`: returns the words for a row in the message.
    """
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # NaN fails every comparison, so it counts as not valid.
    is_valid = (probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE)
    if not is_valid.all():
        row = int(np.argmin(is_valid))
        raise InputError(
            f"the model's output for {rows(row)}: found the sum {sums[row]:.6g} and the lowest value "
            f"{probabilities[row].min():.6g}, expected a probability for each class, as from a softmax; fix: train it "
            "again"
        )
