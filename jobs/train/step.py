"""The training step: forward, backward, allreduce, update. Several steps a call of the graph, no Python between."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from jobs.train.collective import Collective
from jobs.train.feed import Call
from models.training.augment import Augmentation
from models.training.dropout import keyed
from models.training.keys import StepKey
from models.training.optimizers import Optimizer


class TrainStep:
    """Runs the steps of a Call on this rank's rows, together with all other ranks."""

    def __init__(
        self, model: Any, optimizer: Optimizer, collective: Collective, augmentation: Augmentation, seed: int
    ) -> None:
        self._model, self._optimizer, self._collective = model, optimizer, collective
        self._augmentation, self._seed = augmentation, seed
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

    def __call__(self, call: Call, rates: np.ndarray) -> tuple[np.ndarray, int]:
        """Train on a call. `rates`: float32 [k].

        Returns losses float32 [k], each the mean over its global batch before the update, and how many of the last
        global batch's rows are classified right after the last update, with dropout off.
        """
        sums, right = self._graph(
            call.images, call.labels, call.weights, rates, call.first_step, call.first_row, call.global_rows
        )
        total = self._collective.sum(tf.concat([sums, [right]], axis=0), "measurements").numpy()
        return total[:-1] / call.global_rows, int(total[-1])

    def _run(
        self, images: Any, labels: Any, weights: Any, rates: Any, first_step: Any, first_row: Any, global_rows: Any
    ) -> tuple[Any, Any]:
        steps = tf.shape(images)[0]
        losses = tf.TensorArray(tf.float32, steps)

        def body(i: Any, losses: Any) -> tuple[Any, Any]:
            key = StepKey(self._seed, first_step + i, first_row, global_rows)
            loss = self._step(images[i], labels[i], weights[i], rates[i], key)
            return i + 1, losses.write(i, loss)

        _, losses = tf.while_loop(lambda i, _: i < steps, body, (0, losses), parallel_iterations=1)
        return losses.stack(), self._right(images[-1], labels[-1], weights[-1])

    def _step(self, images: Any, labels: Any, weights: Any, rate: Any, key: StepKey) -> Any:
        """One step; returns this rank's sum of losses."""
        with tf.GradientTape() as tape, keyed(key):
            shaped = self._shaped(images)
            if self._augmentation:
                shaped = self._augmentation(shaped, key)
            logits = self._model(shaped, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            total = tf.reduce_sum(losses * weights)
            # Divided by the global batch's rows, so that the sum over ranks is the mean over rows, however they are
            # shared out.
            mean = total / tf.cast(key.global_rows, tf.float32)
        gradients = tape.gradient(mean, self._optimizer.variables)
        self._optimizer.apply(self._collective.sum_gradients(gradients), rate, key.step)
        return total

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
