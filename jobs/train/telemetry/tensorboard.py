"""What rank 0 writes while it trains: TensorBoard's event files and the training log."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs import training_log
from jobs.run_dir import RunDir
from jobs.training_log import Kind

_MAX_FILTERS = 64  # in a picture


class TensorBoardWriter:
    """Writes measurements to `tensorboard/` and to the training log. Each is flushed, so that a kill loses none."""

    def __init__(self, run: RunDir, step: int) -> None:
        """`step`: the training begins or resumes after this many updates."""
        run.tensorboard.mkdir(exist_ok=True)
        run.logs.mkdir(exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(run.tensorboard))
        training_log.truncate(run.curve_file, step)
        self._log = run.curve_file.open("a", encoding="utf-8")

    def graph(self, model: Any) -> None:
        """Write the model's graph, which TensorBoard's Graphs page shows."""
        forward = tf.function(lambda images: model(images, training=False))
        graph = forward.get_concrete_function(tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)).graph
        with self._writer.as_default():
            tf.summary.graph(graph.as_graph_def())

    def measure(self, kind: Kind, step: int, **values: float) -> None:
        """Write a measurement after `step` updates."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{kind}/{name}", value)
        training_log.append(self._log, kind, step, **values)

    def filters(self, model: Any, step: int) -> None:
        """Draw the first layer's weights: a tile per filter, or per class in a linear model."""
        picture = first_layer_picture(model)
        if picture is not None:
            with self._writer.as_default(step=step):
                tf.summary.image("first layer", picture[None])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()
        self._log.close()


def first_layer_picture(model: Any) -> NDArray[Any] | None:
    """Return the first layer's filters side by side, each scaled to [0, 1]: float32 [height, width, 1].

    None if the first layer with weights is neither a convolution nor a dense layer on the pixels.
    """
    height, width, channels = model.input_shape[1:]
    for layer in model.layers:
        if not layer.weights:
            continue
        kernel = np.asarray(layer.weights[0])
        if kernel.ndim == 4:  # rows, columns, channels, filters
            tiles = kernel.mean(axis=2).transpose(2, 0, 1)
        elif kernel.shape[0] == height * width * channels:  # a dense layer on the pixels
            tiles = kernel.reshape(height, width, channels, -1).mean(axis=2).transpose(2, 0, 1)
        else:
            return None
        return _grid(tiles[:_MAX_FILTERS])
    return None


def _grid(tiles: NDArray[Any]) -> NDArray[Any]:
    low, high = tiles.min(axis=(1, 2), keepdims=True), tiles.max(axis=(1, 2), keepdims=True)
    scaled = (tiles - low) / np.maximum(high - low, 1e-12)
    framed = np.pad(scaled, ((0, 0), (1, 1), (1, 1)))
    columns = int(np.ceil(np.sqrt(len(framed))))
    framed = np.pad(framed, ((0, -len(framed) % columns), (0, 0), (0, 0)))
    rows = [np.concatenate(list(framed[i : i + columns]), axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate(rows, axis=0)[..., None].astype(np.float32)
