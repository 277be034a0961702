"""Cutout: a square of each image is covered, so that no single part of an object is enough to recognize it."""

import tensorflow as tf

from models.training.keys import StepKey, salt_of
from models.training.types import Tensor


def cut_out(images: Tensor, key: StepKey, side: int) -> Tensor:
    """Return images float32 [n, height, width, channels], each with a square of `side` pixels of its own mean color.

    The square's center is any pixel, so part of the square may lie outside. DeVries and Taylor, "Improved
    regularization of convolutional neural networks with cutout" (2017).
    """
    rows, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    drawn = key.uniform(salt_of("cutout"), rows, [2])
    down = _covered(drawn[:, 0], height, side)[:, :, None, None]
    along = _covered(drawn[:, 1], width, side)[:, None, :, None]
    covered = down * along
    return images * (1 - covered) + tf.reduce_mean(images, [1, 2], keepdims=True) * covered


def _covered(drawn: Tensor, size: int, side: int) -> Tensor:
    """Return float32 [n, size]: 1 for the pixels of one direction that the square covers, else 0."""
    first = tf.floor(drawn * size)[:, None] - side // 2
    pixels = tf.range(size, dtype=tf.float32)[None, :]
    return tf.cast((pixels >= first) & (pixels < first + side), tf.float32)
