"""What rank 0 writes while it trains: TensorBoard's event files and the training log."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb

from jobs import training_log
from jobs.files import full_disk
from jobs.first_layer import colored, first_layer, mosaic
from jobs.run_dir import RunDir
from jobs.train.telemetry.confusion_picture import confusion_picture
from jobs.train.telemetry.diagram import diagram
from jobs.training_log import Kind

_MOST_FILTERS = 64  # in a picture
# Measurements that TensorBoard shows apart from what is learned.
_SPEED = ("images_per_second", "input_seconds", "compute_seconds", "allreduce_seconds")
_BUCKETS = 30  # TensorBoard's own number
_MOST_WEIGHTS = 100_000  # of an array in its histogram


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
        """Write the model's layers, which TensorBoard's Graphs page draws."""
        with self._events():
            tf.summary.graph(diagram(model))

    def measure(self, kind: Kind, step: int, logged: Mapping[str, float | None] | None = None, **values: float) -> None:
        """Write a measurement after `step` updates. `logged`: figures for the training log alone."""
        with self._events(step):
            for name, value in values.items():
                tf.summary.scalar(f"{'speed' if name in _SPEED else kind}/{name}", value)
        training_log.append(self._log, kind, step, **values, **(logged or {}))

    def weights(self, model: Any, step: int) -> None:
        """Write the first layer's weights as a picture, a tile per filter or output, and all weights as histograms."""
        first = first_layer(model)
        with self._events(step):
            if first is not None:
                tiles = np.array([colored(kernel) for kernel in first.kernels[:_MOST_FILTERS]])
                tf.summary.image("first layer", mosaic(tiles)[None])
            tf.summary.experimental.write_raw_pb(histograms(model).SerializeToString())

    def confusion(self, confusion: NDArray[Any], names: Sequence[str], step: int) -> None:
        """Draw the confusion matrix of a validation, int [classes, classes]. `names`: of the classes."""
        with self._events(step):
            tf.summary.image("confusion matrix", confusion_picture(confusion, names)[None])

    def close(self) -> None:
        """Flush and close the files."""
        with self._events():
            self._writer.close()
        self._log.close()

    @contextmanager
    def _events(self, step: int | None = None) -> Iterator[None]:
        """Write events, and flush them at the end. On a full disk they are lost, and the training goes on.

        It ends where it cannot write a checkpoint, with a line that names that file.
        """
        try:
            with self._writer.as_default(step=step):
                yield
        except tf.errors.OpError as error:
            if full_disk(error) is None:
                raise


def histograms(model: Any) -> Any:
    """Return the histograms of a model's trainable weights as a Summary. Of a large array, evenly spread weights count.

    By NumPy: for the 3.3 million weights of `lecture`, 0.03 s of a core, and `tf.summary.histogram` takes 0.4 s.
    """
    summary = Summary()
    for variable in model.trainable_variables:
        values = np.asarray(variable).reshape(-1)
        some = values[:: -(-len(values) // _MOST_WEIGHTS)]
        summary.MergeFrom(histogram_pb(f"weights/{variable.path}", some, buckets=_BUCKETS))
    return summary
