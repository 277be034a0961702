"""From this rank's rows of a global batch to their part in its gradient: at once, in microbatches, in exact slices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from jobs.train.compute import exact
from jobs.train.compute.collective import Collective
from models.training import norm
from models.training.augment import Augmentation
from models.training.dropout import keyed
from models.training.keys import StepKey
from models.training.loss import cross_entropy


@dataclass(frozen=True)
class Rows:
    """Rows inside the graph: images float32 [n, values], labels int32 [n], weights float32 [n]."""

    images: Any
    labels: Any
    weights: Any

    def __getitem__(self, some: slice) -> "Rows":
        """Return some of them."""
        return Rows(self.images[some], self.labels[some], self.weights[some])

    def take(self, some: Any) -> "Rows":
        """Return those at the given places, int32 [k]."""
        return Rows(*(tf.gather(column, some) for column in (self.images, self.labels, self.weights)))


# From a microbatch's number, an int32 scalar, to this rank's rows in it.
Cut = Callable[[Any], tuple[Rows, StepKey]]


class Backward:
    """Computes the sum of the losses of this rank's rows, and their part in the gradient of the global batch's mean."""

    def __init__(
        self, model: Any, variables: Any, collective: Collective, augmentation: Augmentation, smoothing: float
    ) -> None:
        self._model, self._variables, self._collective = model, variables, collective
        self._augmentation, self._smoothing = augmentation, smoothing
        self._shape = model.input_shape[1:]

    def logits(self, images: Any, training: bool) -> Any:
        """Return the model's logits [n, classes] of images [n, values] or [n, height, width, channels]."""
        return self._model(tf.reshape(images, [-1, *self._shape]), training=training)

    def at_once(self, rows: Rows, key: StepKey, scale: Any = 1.0) -> tuple[Any, list[Any]]:
        """Return the sum of losses, float32, and the gradients × `scale`."""
        batch = norm.GlobalBatch(rows.weights, self._collective.sum)
        with tf.GradientTape() as tape, keyed(key), norm.over(batch):
            images = tf.reshape(rows.images, [-1, *self._shape])
            if self._augmentation:
                images = self._augmentation(images, key)
            logits = self.logits(images, training=True)
            total = tf.reduce_sum(cross_entropy(rows.labels, logits, self._smoothing) * rows.weights)
            # Divided by the global batch's rows, so that the sum over ranks is the mean over rows, however they are
            # shared out.
            mean = total / tf.cast(key.global_rows, tf.float32) * scale
        return total, tape.gradient(mean, self._variables)

    def in_microbatches(self, rows: Rows, key: StepKey, parts: int, scale: Any = 1.0) -> tuple[Any, list[Any]]:
        """Do the same part by part, one after another: as long a step, in a fraction of the memory.

        A model that normalizes does so over each part. So its parts are those of the global batch.
        """
        filled, cut = (_dealt if norm.normalizes(self._model) else _cut)(rows, key, parts)

        def body(n: Any, loss: Any, *sums: Any) -> tuple[Any, ...]:
            total, gradients = self.at_once(*cut(n), scale)
            return n + 1, loss + total, *(s + gradient for s, gradient in zip(sums, gradients, strict=True))

        zeros = [tf.zeros(variable.shape) for variable in self._variables]
        _, loss, *sums = tf.while_loop(
            lambda n, *_: n < filled, body, (0, tf.constant(0.0), *zeros), parallel_iterations=1
        )
        return loss, sums

    def in_slices(self, rows: Rows, key: StepKey, slices: int) -> tuple[Any, list[Any], Any]:
        """Do the same slice by slice; the gradients are float64 sums of whole multiples of 1 / exact.SCALE.

        And return the sum of the slices' reaches, see there.
        """
        # As in `jobs.train.data.order.share_slices`.
        count = tf.minimum(slices, key.global_rows)
        first, last = (count * (self._collective.rank + i) // self._collective.world_size for i in (0, 1))

        def body(n: Any, loss: Any, reach: Any, *sums: Any) -> tuple[Any, ...]:
            start, stop = n * key.global_rows // count, (n + 1) * key.global_rows // count
            mine = rows[start - key.first_row : stop - key.first_row]
            total, gradients = self.at_once(mine, replace(key, first_row=start), exact.SCALE)
            added = [s + exact.to_grid(gradient) for s, gradient in zip(sums, gradients, strict=True)]
            return n + 1, loss + tf.cast(total, tf.float64), reach + exact.reach(gradients), *added

        zeros = [tf.zeros(variable.shape, tf.float64) for variable in self._variables]
        start = (first, tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64), *zeros)
        # Slices side by side: each has one thread.
        _, loss, reach, *sums = tf.while_loop(lambda n, *_: n < last, body, start, parallel_iterations=slices)
        return loss, sums, reach


def _cut(rows: Rows, key: StepKey, parts: int) -> tuple[Any, Cut]:
    """Return how many parts this rank's rows make, and how to get each: they are cut into equal runs (± 1)."""
    count = tf.shape(rows.labels)[0]
    filled = tf.minimum(parts, count)  # an empty part is no batch to all of TensorFlow's kernels

    def cut(n: Any) -> tuple[Rows, StepKey]:
        start, stop = n * count // filled, (n + 1) * count // filled
        return rows[start:stop], replace(key, first_row=key.first_row + start)

    return filled, cut


def _dealt(rows: Rows, key: StepKey, parts: int) -> tuple[Any, Cut]:
    """Return how many parts the global batch makes, and how to get this rank's rows in each: its rows are dealt out.

    Row i of the global batch is in part i mod `parts`, whichever rank has it, and all ranks take part in all of them,
    as many times: what is summed over the ranks inside the model waits for each of them.
    """
    count = tf.shape(rows.labels)[0]
    filled = tf.minimum(parts, key.global_rows)

    def cut(n: Any) -> tuple[Rows, StepKey]:
        start = (n - key.first_row) % filled
        has_any = start < count
        # A rank that has none takes part with a stand-in of weight 0.
        first, stop = tf.where(has_any, start, 0), tf.where(has_any, count, 1)
        mine = rows.take(tf.range(first, stop, filled))
        weights = mine.weights * tf.cast(has_any, tf.float32)
        return replace(mine, weights=weights), replace(key, first_row=key.first_row + first, stride=filled)

    return filled, cut
