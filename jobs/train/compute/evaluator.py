"""The forward pass of validation: predicted classes and the loss of a batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.dataset import PixelType
from jobs.train.compute.normalize import normalized
from jobs.train.compute.tensors import as_tensor
from models.training.types import Tensor

Evaluate = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], float]]


def make_evaluator(model: Any, pixels: PixelType = "float32") -> Evaluate:
    """Return a function from images [n, values] and labels [n] to (predicted classes, sum of losses), dropout off.

    The classes are int32 [n]. `pixels`: the type of the images.
    """
    shape = model.input_shape[1:]

    @tf.function(input_signature=[tf.TensorSpec([None, int(np.prod(shape))], pixels), tf.TensorSpec([None], tf.int32)])
    def graph(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(tf.reshape(normalized(images), [-1, *shape]), training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.argmax(logits, axis=1, output_type=tf.int32), tf.reduce_sum(losses)

    def evaluate(images: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], float]:
        predicted, loss = graph(as_tensor(images), labels)
        return predicted.numpy(), float(loss)

    return evaluate
