"""The training step: forward, backward, allreduce, update. Several steps a call of the graph, no Python between."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.train.compute import compression, exact
from jobs.train.compute.backward import Backward, Rows
from jobs.train.compute.collective import Collective
from jobs.train.data.feed import Call
from jobs.train.data.row_cache import ALIGNMENT
from models.training.augment import Augmentation
from models.training.clip import clipped
from models.training.ema import EMA
from models.training.keys import StepKey
from models.training.loss_scale import LossScale
from models.training.optimizers import Optimizer


@dataclass(frozen=True)
class LocalResult:
    """What a call of the graph gives on this rank.

    `loss_sums` float64 [k]: each step's sum of losses over this rank's rows, before the update. `reaches` float64 [k]:
    this rank's part in what no sum of the step's gradients exceeds, 0 where they need not be exact. `right`: how many
    of its rows of the last step are classified right after the last update, with dropout off; 0 where the call is not
    measured, NaN where the model's outputs are not finite. `waited`: seconds in allreduce.
    """

    loss_sums: NDArray[Any]
    reaches: NDArray[Any]
    right: float
    waited: float


@dataclass(frozen=True)
class HowTaken:
    """How a step is taken.

    `smoothing`: of the labels. `clip_norm`: the longest gradient. `microbatches`: into how many parts a rank cuts its
    rows; of a model that normalizes over the batch, into how many the global batch is dealt out. `slices`: into how
    many each global batch is cut, so that the bits do not depend on the number of ranks (see
    `jobs.train.compute.exact`); None: into none. `compression`: as what gradients travel, see
    `jobs.train.compute.compression`.
    """

    smoothing: float = 0.0
    clip_norm: float | None = None
    microbatches: int = 1
    slices: int | None = None
    compression: str = "float32"


class TrainStep:
    """Runs the steps of a Call on this rank's rows, together with all other ranks."""

    def __init__(
        self,
        model: Any,
        optimizer: Optimizer,
        collective: Collective,
        augmentation: Augmentation,
        seed: int,
        how: HowTaken = HowTaken(),
        ema: EMA | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        self._model, self._optimizer, self._collective = model, optimizer, collective
        self._seed, self._how, self._ema, self._loss_scale = seed, how, ema, loss_scale
        self._backward = Backward(model, optimizer.variables, collective, augmentation, how.smoothing)
        values = int(np.prod(model.input_shape[1:]))
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
                tf.TensorSpec([], tf.bool),  # measured
            ],
        )

    def __call__(self, call: Call, rates: NDArray[Any]) -> LocalResult:
        """Train on a call. `rates`: float32 [k]."""
        sums, reaches, right, waited = self._graph(
            as_tensor(call.images),
            call.labels,
            call.weights,
            rates,
            call.first_step,
            call.first_row,
            call.global_rows,
            call.measured,
        )
        return LocalResult(sums.numpy(), reaches.numpy(), float(right), float(waited))

    def _run(
        self,
        images: Any,
        labels: Any,
        weights: Any,
        rates: Any,
        first_step: Any,
        first_row: Any,
        global_rows: Any,
        measured: Any,
    ) -> tuple[Any, Any, Any, Any]:
        steps = tf.shape(images)[0]

        def body(i: Any, losses: Any, reaches: Any, waited: Any) -> tuple[Any, Any, Any, Any]:
            key = StepKey(self._seed, first_step + i, first_row, global_rows)
            loss, reach, wait = self._step(Rows(images[i], labels[i], weights[i]), rates[i], key)
            return i + 1, losses.write(i, loss), reaches.write(i, reach), waited + wait

        start = (0, *(tf.TensorArray(tf.float64, steps) for _ in range(2)), tf.constant(0.0, tf.float64))
        _, losses, reaches, waited = tf.while_loop(lambda i, *_: i < steps, body, start, parallel_iterations=1)
        right = tf.cond(measured, lambda: self._right(images[-1], labels[-1], weights[-1]), lambda: tf.constant(0.0))
        return losses.stack(), reaches.stack(), right, waited

    def _step(self, rows: Rows, rate: Any, key: StepKey) -> tuple[Any, Any, Any]:
        """Take one step; return this rank's sum of losses, its reach, and the seconds it waited for the others."""
        loss, summed, reach, waited = self._gradient(rows, key)
        if self._loss_scale:
            self._loss_scale.update(summed, lambda gradients: self._update(gradients, rate, key.step))
        else:
            self._update(summed, rate, key.step)
        return tf.cast(loss, tf.float64), reach, waited

    def _update(self, gradients: list[Any], rate: Any, step: Any) -> None:
        if self._how.clip_norm is not None:
            gradients = clipped(gradients, self._how.clip_norm)
        self._optimizer.apply(gradients, rate, step)
        if self._ema:
            self._ema.update(step)

    def _gradient(self, rows: Rows, key: StepKey) -> tuple[Any, list[Any], Any, Any]:
        """Return this rank's sum of losses, the global batch's gradients, this rank's reach, and the seconds waited.

        The gradients are those of the enlarged loss, where it is enlarged.
        """
        if self._how.slices is not None:
            loss, gradients, reach = self._backward.in_slices(rows, key, self._how.slices)
            summed = [exact.from_grid(total) for total in self._collective.sum_gradients(gradients)]
            # TensorFlow refuses to read a clock where it is to be deterministic.
            return loss, summed, reach, tf.constant(0.0, tf.float64)
        scale = self._loss_scale.factor if self._loss_scale else 1.0
        if self._how.microbatches > 1:
            loss, gradients = self._backward.in_microbatches(rows, key, self._how.microbatches, scale)
        else:
            loss, gradients = self._backward.at_once(rows, key, scale)
        summed, waited = self._sum(gradients)
        return loss, summed, tf.constant(0.0, tf.float64), waited

    def _sum(self, gradients: list[Any]) -> tuple[list[Any], Any]:
        """Sum gradients over all ranks, and clock it from when the last of this rank's is computed."""
        if self._collective.world_size == 1:
            return gradients, tf.constant(0.0, tf.float64)
        with tf.control_dependencies(gradients):
            computed = tf.timestamp()
        # An enlarged loss has gradients in float16's range already, or is less enlarged in the next step.
        factor = 1.0 if self._loss_scale else compression.FACTOR
        summed = compression.summed(gradients, self._collective, self._how.compression, factor)
        with tf.control_dependencies(summed):
            waited = tf.timestamp() - computed
        return summed, waited

    def _right(self, images: Any, labels: Any, weights: Any) -> Any:
        logits = self._backward.logits(images, training=False)
        right = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == labels, tf.float32)
        return tf.where(tf.reduce_all(tf.math.is_finite(logits)), tf.reduce_sum(right * weights), np.nan)


def as_tensor(array: NDArray[Any]) -> Any:
    """Return an array as a tensor, without a copy where it begins at a multiple of ALIGNMENT bytes, as the feed's do.

    The tensor then keeps the array alive. Nothing may write to it any more: the feed makes a new one for each call.
    """
    if array.size and array.flags.carray and array.ctypes.data % ALIGNMENT == 0:
        # TensorFlow does not look at the alignment, and its kernels end the process where it is another.
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def make_evaluator(model: Any) -> Callable[[NDArray[Any], NDArray[Any]], tuple[int, float]]:
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

    def evaluate(images: NDArray[Any], labels: NDArray[Any]) -> tuple[int, float]:
        right, loss = graph(as_tensor(images), labels)
        return int(right), float(loss)

    return evaluate
