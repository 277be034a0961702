"""Horizontal flips, for objects that look alike from both sides."""

import tensorflow as tf

from models.training.keys import StepKey, salt_of
from models.training.types import Tensor


def flipped(images: Tensor, key: StepKey) -> Tensor:
    """Return images [n, height, width, channels], each mirrored left to right with a probability of one half."""
    is_mirrored = key.uniform(salt_of("flip"), tf.shape(images)[0], []) < 0.5
    return tf.where(is_mirrored[:, None, None, None], tf.reverse(images, [2]), images)
