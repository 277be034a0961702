"""Train one network in this process on rows in memory, by the step, order and schedule of the train stage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.train.class_weights import class_weights
from jobs.train.compute.collective import Collective
from jobs.train.compute.network import Network
from jobs.train.compute.precision import choose_precision
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall, PlannedCall, max_steps_per_execution, plan_calls
from jobs.train.data.epoch import Epoch
from jobs.train.data.length import row_order, total_steps
from jobs.train.data.order import RowOrder
from jobs.train.worker import make_step
from models.training.schedules import Rates

_BATCH = 500  # rows of a forward pass


def fit(
    config: TrainConfig,
    manifest: Manifest,
    seed: int,
    images: NDArray[Any],
    labels: NDArray[Any],
    on_images: Callable[[int], None],
) -> Any:
    """Return the keras.Model that a config trains, from images to logits, on images float32 [n, values], labels [n].

    The rows are shuffled over the whole training data in each epoch. The training has its full length: there is no
    validation that could stop it early. `on_images`: called with the number of images trained on since its last call.
    """
    collective = Collective()
    order = row_order(config, [len(images)], seed)
    network = Network(config, manifest, seed, choose_precision(tf, config, collective))
    step = make_step(config, network, collective, seed, class_weights(config, manifest))
    total, peak = total_steps(config, order), config.peak_rate(order.batch_size)
    rates = Rates(config.schedule, total, peak, config.warmup_fraction, config.final_rate_fraction)
    most = max_steps_per_execution(order, image_bytes=images.itemsize * images.shape[1], world_size=1)
    for epoch in range(-(-total // order.steps)):
        drawn = order.epoch(epoch)
        for planned in plan_calls(order, epoch, epoch * order.steps, total, config.log_every, most):
            call = _call(order, drawn, planned, images, labels)
            step(call, rates[call.first_step : call.end_step])
            on_images(len(call.indices))
    return network.final


def _call(order: RowOrder, drawn: Epoch, planned: PlannedCall, images: NDArray[Any], labels: NDArray[Any]) -> GraphCall:
    rows, steps = drawn.rank_rows(planned.first, planned.last, 0, 1), planned.last - planned.first
    return GraphCall(
        first_step=planned.first_step,
        images=images[rows].reshape(steps, -1, images.shape[1]),
        labels=labels[rows].astype(np.int32).reshape(steps, -1),
        weights=np.ones((steps, len(rows) // steps), np.float32),
        indices=rows,
        first_row=0,
        global_rows=order.batch_rows(planned.first),
        measured=False,
    )


def probabilities(model: Any, images: NDArray[Any]) -> NDArray[Any]:
    """Return probabilities, float32 [n, classes], of a model of logits for images float32 [n, values]."""
    shape = model.input_shape[1:]

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32)])
    def forward(batch: Any) -> Any:
        return tf.nn.softmax(tf.cast(model(batch, training=False), tf.float32))

    parts = [forward(images[i : i + _BATCH].reshape(-1, *shape)).numpy() for i in range(0, len(images), _BATCH)]
    return np.concatenate([np.empty((0, model.output_shape[-1]), np.float32), *parts])
