"""The training step: forward, backward, allreduce, update. A graph call runs several steps without Python between."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.dataset import PixelType
from jobs.train.compute import exact
from jobs.train.compute.backward import Backward, LocalBatch
from jobs.train.compute.collective import Collective
from jobs.train.compute.compression import FLOAT16_FACTOR, sum_compressed
from jobs.train.compute.normalize import normalized
from jobs.train.compute.tensors import as_tensor
from jobs.train.data.calls import GraphCall
from models.training.augment import Augmentation
from models.training.clip import clip_by_global_norm
from models.training.ema import EMA
from models.training.keys import StepKey
from models.training.loss_scale import LossScale
from models.training.optimizers import Optimizer
from models.training.types import Tensor


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What a graph call of k steps computes on this rank.

    `loss_sums`: float64 [k], each step's sum of losses over this rank's rows, before the update. `gradient_bounds`:
    float64 [k], no sum of a step's gradients over this rank's slices exceeds it; 0 unless training is deterministic.
    `correct`: rows of the last step predicted correctly after the last update, with dropout off; 0 if the call is not
    measured, NaN if the outputs are not finite. `allreduce_seconds`: time spent waiting in allreduce.
    """

    loss_sums: NDArray[Any]
    gradient_bounds: NDArray[Any]
    correct: float
    allreduce_seconds: float


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The options of a training step.

    `smoothing`: of labels. `class_weights`: by class number; None: all 1. `clip_norm`: the largest global norm of the
    gradients; None: no limit. `microbatches`: of a rank's rows, or of the global batch if the model has batch
    normalization. `slices`: of each global batch, for exact sums (see `jobs.train.compute.exact`); None: not
    deterministic. `compression`: of gradients between ranks, see `jobs.train.compute.compression`. `pixels`: the type
    of the images.
    """

    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    clip_norm: float | None = None
    microbatches: int = 1
    slices: int | None = None
    compression: str = "float32"
    pixels: PixelType = "float32"


class TrainStep:
    """Runs the steps of a graph call on this rank's rows, together with all other ranks."""

    def __init__(
        self,
        model: Any,
        optimizer: Optimizer,
        collective: Collective,
        augmentation: Augmentation,
        seed: int,
        options: StepOptions = StepOptions(),
        ema: EMA | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        self._optimizer, self._collective = optimizer, collective
        self._seed, self._options, self._ema, self._loss_scale = seed, options, ema, loss_scale
        self._backward = Backward(
            model, optimizer.variables, collective, augmentation, options.smoothing, options.class_weights
        )
        values = int(np.prod(model.input_shape[1:]))
        self._graph = tf.function(
            self._run,
            input_signature=[
                tf.TensorSpec([None, None, values], options.pixels),  # images: steps, rows, pixel values
                tf.TensorSpec([None, None], tf.int32),  # labels
                tf.TensorSpec([None, None], tf.float32),  # weights
                tf.TensorSpec([None], tf.float32),  # learning rates
                tf.TensorSpec([], tf.int32),  # first step
                tf.TensorSpec([], tf.int32),  # first row
                tf.TensorSpec([], tf.int32),  # global rows
                tf.TensorSpec([], tf.bool),  # measured
            ],
        )

    def __call__(self, call: GraphCall, rates: NDArray[Any]) -> LocalResult:
        """Train on a graph call. `rates`: the learning rate of each step, float32 [k]."""
        sums, bounds, correct, seconds = self._graph(
            as_tensor(call.images),
            call.labels,
            call.weights,
            rates,
            call.first_step,
            call.first_row,
            call.global_rows,
            call.measured,
        )
        return LocalResult(
            loss_sums=sums.numpy(),
            gradient_bounds=bounds.numpy(),
            correct=float(correct),
            allreduce_seconds=float(seconds),
        )

    def _run(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Tensor,
        rates: Tensor,
        first_step: Tensor,
        first_row: Tensor,
        global_rows: Tensor,
        measured: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        steps = tf.shape(images)[0]

        def body(i: Tensor, losses: Any, bounds: Any, waited: Tensor) -> tuple[Tensor, Any, Any, Tensor]:
            key = StepKey(seed=self._seed, step=first_step + i, first_row=first_row, global_rows=global_rows)
            loss, bound, wait = self._step(LocalBatch(normalized(images[i]), labels[i], weights[i]), rates[i], key)
            return i + 1, losses.write(i, loss), bounds.write(i, bound), waited + wait

        start = (0, *(tf.TensorArray(tf.float64, steps) for _ in range(2)), tf.constant(0.0, tf.float64))
        _, losses, bounds, waited = tf.while_loop(lambda i, *_: i < steps, body, start, parallel_iterations=1)
        correct = tf.cond(
            measured,
            lambda: self._correct(LocalBatch(normalized(images[-1]), labels[-1], weights[-1])),
            lambda: tf.constant(0.0),
        )
        return losses.stack(), bounds.stack(), correct, waited

    def _step(self, batch: LocalBatch, rate: Tensor, key: StepKey) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step; return this rank's sum of losses, its gradient bound, and its seconds in allreduce."""
        loss, gradients, bound, waited = self._gradient(batch, key)
        if self._loss_scale:
            self._loss_scale.update(gradients, lambda unscaled: self._update(unscaled, rate, key.step))
        else:
            self._update(gradients, rate, key.step)
        return tf.cast(loss, tf.float64), bound, waited

    def _update(self, gradients: list[Tensor], rate: Tensor, step: Tensor) -> None:
        if self._options.clip_norm is not None:
            gradients = clip_by_global_norm(gradients, self._options.clip_norm)
        self._optimizer.apply(gradients, rate, step)
        if self._ema:
            self._ema.update(step)

    def _gradient(self, batch: LocalBatch, key: StepKey) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Return this rank's sum of losses, the global batch's gradients, this rank's gradient bound, and seconds.

        With a loss scale, the gradients are those of the scaled loss. The seconds are those in allreduce.
        """
        if self._options.slices is not None:
            loss, gradients, bound = self._backward.in_slices(batch, key, self._options.slices)
            summed = [exact.from_grid(total) for total in self._collective.sum_gradients(gradients)]
            # No seconds: TensorFlow refuses to read a clock when operations are deterministic.
            return loss, summed, bound, tf.constant(0.0, tf.float64)
        scale = self._loss_scale.factor if self._loss_scale else 1.0
        if self._options.microbatches > 1:
            loss, gradients = self._backward.in_microbatches(batch, key, self._options.microbatches, scale)
        else:
            loss, gradients = self._backward.at_once(batch, key, scale)
        summed, waited = self._allreduce(gradients)
        return loss, summed, tf.constant(0.0, tf.float64), waited

    def _allreduce(self, gradients: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Sum gradients over all ranks; return the seconds from when this rank's last one is computed."""
        if self._collective.world_size == 1:
            return gradients, tf.constant(0.0, tf.float64)
        with tf.control_dependencies(gradients):
            computed = tf.timestamp()
        # The loss scale already keeps gradients in float16's range.
        factor = 1.0 if self._loss_scale else FLOAT16_FACTOR
        summed = sum_compressed(gradients, self._collective, self._options.compression, factor)
        with tf.control_dependencies(summed):
            waited = tf.timestamp() - computed
        return summed, waited

    def _correct(self, batch: LocalBatch) -> Tensor:
        """Return how many rows are predicted correctly, a float32 scalar; NaN if the outputs are not finite."""
        logits = self._backward.logits(batch.images, training=False)
        correct = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == batch.labels, tf.float32)
        return tf.where(tf.reduce_all(tf.math.is_finite(logits)), tf.reduce_sum(correct * batch.weights), np.nan)
