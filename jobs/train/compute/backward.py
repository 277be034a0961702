"""From a rank's rows to its share of the global batch's gradient: at once, in microbatches, or in exact slices."""

from collections.abc import Callable, Sequence
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
from models.training.types import Tensor, Variable


@dataclass(frozen=True)
class LocalBatch:
    """A rank's rows of one batch: images float32 [n, values], labels int32 [n], weights float32 [n]."""

    images: Tensor
    labels: Tensor
    weights: Tensor

    def __getitem__(self, rows: slice) -> "LocalBatch":
        """Return a slice of the rows."""
        return LocalBatch(self.images[rows], self.labels[rows], self.weights[rows])

    def take(self, rows: Tensor) -> "LocalBatch":
        """Return the rows numbered `rows`, int32 [k]."""
        return LocalBatch(*(tf.gather(column, rows) for column in (self.images, self.labels, self.weights)))


# From a microbatch's number, an int32 scalar, to this rank's rows in it.
Cut = Callable[[Tensor], tuple[LocalBatch, StepKey]]


class Backward:
    """Computes the sum of losses over this rank's rows, and their share of the gradient of the global batch's mean."""

    def __init__(
        self,
        model: Any,
        variables: list[Variable],
        collective: Collective,
        augmentation: Augmentation,
        smoothing: float,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self._model, self._variables, self._collective = model, variables, collective
        self._augmentation, self._smoothing, self._class_weights = augmentation, smoothing, class_weights
        self._shape = model.input_shape[1:]

    def logits(self, images: Tensor, training: bool) -> Tensor:
        """Return the model's logits [n, classes] of images [n, values] or [n, height, width, channels]."""
        return self._model(tf.reshape(images, [-1, *self._shape]), training=training)

    def at_once(self, batch: LocalBatch, key: StepKey, scale: Tensor = 1.0) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the sum of losses and the number of correct rows, float32 scalars, and the gradients × `scale`."""
        global_batch = norm.GlobalBatch(batch.weights, self._collective.sum)
        with tf.GradientTape() as tape, keyed(key), norm.over(global_batch):
            images = tf.reshape(batch.images, [-1, *self._shape])
            if self._augmentation:
                images = self._augmentation(images, key)
            logits = self.logits(images, training=True)
            losses = cross_entropy(batch.labels, logits, self._smoothing, self._class_weights)
            total = tf.reduce_sum(losses * batch.weights)
            # Divided by the rows of the global batch, so that the sum over ranks is the mean over rows, however the
            # rows are shared.
            mean = total / tf.cast(key.global_rows, tf.float32) * scale
        return total, _correct(batch, logits), tape.gradient(mean, self._variables)

    def in_microbatches(
        self, batch: LocalBatch, key: StepKey, count: int, scale: Tensor = 1.0
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the same, computed in `count` microbatches one after another: as slow, in a fraction of the memory.

        A model with batch normalization normalizes each microbatch. Its microbatches are those of the global batch, so
        that they do not depend on the number of ranks.
        """
        split = _split_global_batch if norm.has_batch_normalization(self._model) else _split_local_batch
        filled, cut = split(batch, key, count)

        def body(n: Tensor, loss: Tensor, correct: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            total, accurate, gradients = self.at_once(*cut(n), scale)
            added = (s + gradient for s, gradient in zip(sums, gradients, strict=True))
            return n + 1, loss + total, correct + accurate, *added

        zeros = [tf.zeros(variable.shape) for variable in self._variables]
        start = (0, tf.constant(0.0), tf.constant(0.0), *zeros)
        _, loss, correct, *sums = tf.while_loop(lambda n, *_: n < filled, body, start, parallel_iterations=1)
        return loss, correct, sums

    def in_slices(self, batch: LocalBatch, key: StepKey, slices: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return the sum of losses, the correct rows, the gradients, and the sum of the slices' `exact.bound`.

        All are float64, but for the number of correct rows, which is float32.

        The gradients are exact sums over this rank's slices, in units of 1 / exact.SCALE.
        """
        # As in `jobs.train.data.order.share_slices`.
        count = tf.minimum(slices, key.global_rows)
        first, last = (count * (self._collective.rank + i) // self._collective.world_size for i in (0, 1))

        def body(n: Tensor, loss: Tensor, correct: Tensor, bound: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            start, stop = n * key.global_rows // count, (n + 1) * key.global_rows // count
            rows = batch[start - key.first_row : stop - key.first_row]
            total, accurate, gradients = self.at_once(rows, replace(key, first_row=start), exact.SCALE)
            added = [s + exact.to_grid(gradient) for s, gradient in zip(sums, gradients, strict=True)]
            return n + 1, loss + tf.cast(total, tf.float64), correct + accurate, bound + exact.bound(gradients), *added

        zeros = [tf.zeros(variable.shape, tf.float64) for variable in self._variables]
        start = (first, tf.constant(0.0, tf.float64), tf.constant(0.0), tf.constant(0.0, tf.float64), *zeros)
        # Slices run side by side: each has one thread.
        _, loss, correct, bound, *sums = tf.while_loop(lambda n, *_: n < last, body, start, parallel_iterations=slices)
        return loss, correct, sums, bound


def _correct(batch: LocalBatch, logits: Tensor) -> Tensor:
    """Return how many rows are predicted correctly, a float32 scalar; stand-in rows do not count."""
    correct = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == batch.labels, tf.float32)
    return tf.reduce_sum(correct * batch.weights)


def _split_local_batch(batch: LocalBatch, key: StepKey, count: int) -> tuple[Tensor, Cut]:
    """Return the number of microbatches and the rows of each: this rank's rows in equal runs (± 1)."""
    rows = tf.shape(batch.labels)[0]
    filled = tf.minimum(count, rows)  # some of TensorFlow's kernels refuse an empty batch

    def cut(n: Tensor) -> tuple[LocalBatch, StepKey]:
        start, stop = n * rows // filled, (n + 1) * rows // filled
        return batch[start:stop], replace(key, first_row=key.first_row + start)

    return filled, cut


def _split_global_batch(batch: LocalBatch, key: StepKey, count: int) -> tuple[Tensor, Cut]:
    """Return the number of microbatches of the global batch, and this rank's rows in each.

    Row i of the global batch is in microbatch i mod `count`, whichever rank has it. All ranks run every microbatch, as
    the sums over ranks inside the model wait for each of them.
    """
    rows = tf.shape(batch.labels)[0]
    filled = tf.minimum(count, key.global_rows)

    def cut(n: Tensor) -> tuple[LocalBatch, StepKey]:
        start = (n - key.first_row) % filled
        has_rows = start < rows
        # A rank without rows in this microbatch takes part with a stand-in row of weight 0.
        first, stop = tf.where(has_rows, start, 0), tf.where(has_rows, rows, 1)
        chosen = batch.take(tf.range(first, stop, filled))
        weights = chosen.weights * tf.cast(has_rows, tf.float32)
        return replace(chosen, weights=weights), replace(key, first_row=key.first_row + first, stride=filled)

    return filled, cut
