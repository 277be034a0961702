"""Elastic distortion: every pixel moves a little at random, and neighbors move alike, as handwriting varies."""

import math

import tensorflow as tf

from models.training.keys import StepKey, salt_of
from models.training.types import Tensor


def displacements(key: StepKey, size: tuple[int, int], displacement: Tensor, sigma: float) -> Tensor:
    """Return float32 [n, height, width, 2]: how many pixels down and right of its position each pixel is read.

    `size`: height and width. `displacement`: float32 [n], each image's root mean square in each direction. `sigma`: the
    field is uniform noise, smoothed by a Gaussian whose std is that many pixels. Simard et al., "Best practices for
    convolutional neural networks" (2003), section 2.
    """
    drawn = key.uniform(salt_of("elastic"), tf.shape(displacement)[0], [*size, 2]) * 2 - 1
    # Noise uniform in [−1, 1] has variance 1/3; a Gaussian in two dimensions divides it by 4 π σ².
    return displacement[:, None, None, None] * sigma * math.sqrt(12 * math.pi) * _smoothed(drawn, sigma)


def _smoothed(field: Tensor, sigma: float) -> Tensor:
    """Return a field [n, height, width, 2] smoothed by a Gaussian, one direction after the other."""
    reach = math.ceil(3 * sigma)
    bell = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-reach, reach + 1)]
    kernel = tf.constant([x / sum(bell) for x in bell], tf.float32)
    down = tf.tile(kernel[:, None, None, None], [1, 1, 2, 1])
    along = tf.tile(kernel[None, :, None, None], [1, 1, 2, 1])
    for kernels in (down, along):
        field = tf.nn.depthwise_conv2d(field, kernels, strides=[1, 1, 1, 1], padding="SAME")
    return field
