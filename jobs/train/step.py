"""The training step: forward, backward, allreduce, update. Several steps a call of the graph, no Python between."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from jobs.train import exact
from jobs.train.collective import Collective
from jobs.train.feed import Call
from models.training.augment import Augmentation
from models.training.dropout import keyed
from models.training.keys import StepKey
from models.training.optimizers import Optimizer


@dataclass(frozen=True)
class Rows:
    """Rows inside the graph: images float32 [n, values], labels int32 [n], weights float32 [n]."""

    images: Any
    labels: Any
    weights: Any


@dataclass(frozen=True)
class LocalResult:
    """What a call of the graph gives on this rank.

    `loss_sums` float64 [k]: each step's sum of losses over this rank's rows, before the update. `right`: how many of
    its rows of the last step are classified right after the last update, with dropout off. `waited`: seconds in
    allreduce.
    """

    loss_sums: np.ndarray
    right: float
    waited: float


class TrainStep:
    """Runs the steps of a Call on this rank's rows, together with all other ranks.

    `slices`: into how many each global batch is cut, so that the bits do not depend on the number of ranks; None: a
    rank computes on all of its rows at once. See `jobs.train.exact`.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Optimizer,
        collective: Collective,
        augmentation: Augmentation,
        seed: int,
        slices: int | None = None,
    ) -> None:
        self._model, self._optimizer, self._collective = model, optimizer, collective
        self._augmentation, self._seed, self._slices = augmentation, seed, slices
        self._shape = model.input_shape[1:]
        values = int(np.prod(self._shape))
        self._graph = tf.function(
            self._run,
            input_signature=[
                tf.TensorSpec([None, None, values], tf.float32),  # images: steps, rows, pixel values
                tf.TensorSpec([None, None], tf.int32),  # labels
                tf.TensorSpec([None, None], tf.float32),  # weights
                tf.TensorSpec([None], tf.float32),  # learning rates
                tf.TensorSpec([], tf.int32),  # first step
                tf.TensorSpec([], tf.int32),  # first row
                tf.TensorSpec([], tf.int32),  # global rows
            ],
        )

    def __call__(self, call: Call, rates: np.ndarray) -> LocalResult:
        """Train on a call. `rates`: float32 [k]."""
        sums, right, waited = self._graph(
            call.images, call.labels, call.weights, rates, call.first_step, call.first_row, call.global_rows
        )
        return LocalResult(sums.numpy(), float(right), float(waited))

    def _run(
        self, images: Any, labels: Any, weights: Any, rates: Any, first_step: Any, first_row: Any, global_rows: Any
    ) -> tuple[Any, Any, Any]:
        steps = tf.shape(images)[0]

        def body(i: Any, losses: Any, waited: Any) -> tuple[Any, Any, Any]:
            key = StepKey(self._seed, first_step + i, first_row, global_rows)
            loss, wait = self._step(Rows(images[i], labels[i], weights[i]), rates[i], key)
            return i + 1, losses.write(i, loss), waited + wait

        start = (0, tf.TensorArray(tf.float64, steps), tf.constant(0.0, tf.float64))
        _, losses, waited = tf.while_loop(lambda i, *_: i < steps, body, start, parallel_iterations=1)
        return losses.stack(), self._right(images[-1], labels[-1], weights[-1]), waited

    def _step(self, rows: Rows, rate: Any, key: StepKey) -> tuple[Any, Any]:
        """One step; returns this rank's sum of losses, and the seconds it waited for the others' gradients."""
        if self._slices is None:
            loss, gradients = self._backward(rows, key)
            summed, waited = self._sum(gradients)
        else:
            loss, gradients = self._backward_in_slices(rows, key, self._slices)
            summed = [exact.from_grid(total) for total in self._collective.sum_gradients(gradients)]
            waited = tf.constant(0.0, tf.float64)  # TensorFlow refuses to read a clock where it is to be deterministic
        self._optimizer.apply(summed, rate, key.step)
        return tf.cast(loss, tf.float64), waited

    def _backward(self, rows: Rows, key: StepKey, scale: float = 1.0) -> tuple[Any, list[Any]]:
        """Return the sum of these rows' losses, and their part in the gradient of the global batch's mean × `scale`."""
        with tf.GradientTape() as tape, keyed(key):
            images = self._shaped(rows.images)
            if self._augmentation:
                images = self._augmentation(images, key)
            logits = self._model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(rows.labels, logits)
            total = tf.reduce_sum(losses * rows.weights)
            # Divided by the global batch's rows, so that the sum over ranks is the mean over rows, however they are
            # shared out.
            mean = total / tf.cast(key.global_rows, tf.float32) * scale
        return total, tape.gradient(mean, self._optimizer.variables)

    def _backward_in_slices(self, rows: Rows, key: StepKey, slices: int) -> tuple[Any, list[Any]]:
        """Do the same slice by slice; the gradients are float64 sums of whole multiples of 1 / exact.SCALE."""
        # As in `jobs.train.order.share_slices`.
        count = tf.minimum(slices, key.global_rows)
        first, last = (count * (self._collective.rank + i) // self._collective.world_size for i in (0, 1))

        def body(n: Any, loss: Any, *sums: Any) -> tuple[Any, ...]:
            start, stop = n * key.global_rows // count, (n + 1) * key.global_rows // count
            mine = slice(start - key.first_row, stop - key.first_row)
            part = Rows(rows.images[mine], rows.labels[mine], rows.weights[mine])
            total, gradients = self._backward(part, replace(key, first_row=start), exact.SCALE)
            added = [s + exact.to_grid(gradient) for s, gradient in zip(sums, gradients, strict=True)]
            return n + 1, loss + tf.cast(total, tf.float64), *added

        zeros = [tf.zeros(variable.shape, tf.float64) for variable in self._optimizer.variables]
        start = (first, tf.constant(0.0, tf.float64), *zeros)
        # Slices side by side: each has one thread.
        _, loss, *sums = tf.while_loop(lambda n, *_: n < last, body, start, parallel_iterations=slices)
        return loss, sums

    def _sum(self, gradients: list[Any]) -> tuple[list[Any], Any]:
        """Sum gradients over all ranks, and clock it from when the last of this rank's is computed."""
        if self._collective.world_size == 1:
            return gradients, tf.constant(0.0, tf.float64)
        with tf.control_dependencies(gradients):
            computed = tf.timestamp()
        summed = self._collective.sum_gradients(gradients)
        with tf.control_dependencies(summed):
            return summed, tf.timestamp() - computed

    def _right(self, images: Any, labels: Any, weights: Any) -> Any:
        logits = self._model(self._shaped(images), training=False)
        right = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == labels, tf.float32)
        return tf.reduce_sum(right * weights)

    def _shaped(self, images: Any) -> Any:
        return tf.reshape(images, [-1, *self._shape])


def make_evaluator(model: Any) -> Callable[[np.ndarray, np.ndarray], tuple[int, float]]:
    """Return a function from images [n, values] and labels [n] to (rows right, sum of losses), dropout off."""
    shape = model.input_shape[1:]

    @tf.function(
        input_signature=[tf.TensorSpec([None, int(np.prod(shape))], tf.float32), tf.TensorSpec([None], tf.int32)]
    )
    def graph(images: Any, labels: Any) -> tuple[Any, Any]:
        logits = model(tf.reshape(images, [-1, *shape]), training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
        return tf.reduce_sum(tf.cast(right, tf.int32)), tf.reduce_sum(losses)

    def evaluate(images: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
        right, loss = graph(images, labels)
        return int(right), float(loss)

    return evaluate
