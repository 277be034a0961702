"""Training images bent at random, as handwriting varies: every pixel moved a little, neighbours alike."""

import math
from typing import Any

import tensorflow as tf

from models.training.keys import StepKey, salt_of


def bent(images: Any, key: StepKey, displacement: Any, sigma: float) -> Any:
    """Return images [n, height, width, channels] float32, each under a displacement field of its own.

    `displacement`: float32 [n], by how many pixels a pixel moves in each direction, in quadratic mean. `sigma`: how
    far, in pixels, neighbours move alike: the field is uniform noise under a Gaussian of that deviation. Bilinear; what
    comes in from outside is 0. Simard et al., "Best practices for convolutional neural networks" (2003), section 2.
    """
    height, width = images.shape[1:3]
    drawn = key.uniform(salt_of("elastic"), tf.shape(images)[0], [height, width, 2]) * 2 - 1
    # Noise uniform in [−1, 1] has variance 1/3; a Gaussian in two dimensions divides it by 4 π σ².
    field = displacement[:, None, None, None] * sigma * math.sqrt(12 * math.pi) * _smoothed(drawn, sigma)
    rows = tf.range(height, dtype=tf.float32)[:, None] + field[..., 0]
    columns = tf.range(width, dtype=tf.float32)[None, :] + field[..., 1]
    return _sampled(images, rows, columns)


def _smoothed(field: Any, sigma: float) -> Any:
    """Return a field [n, height, width, 2] under a Gaussian, one direction after the other."""
    reach = math.ceil(3 * sigma)
    bell = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-reach, reach + 1)]
    kernel = tf.constant([x / sum(bell) for x in bell], tf.float32)
    down = tf.tile(kernel[:, None, None, None], [1, 1, 2, 1])
    along = tf.tile(kernel[None, :, None, None], [1, 1, 2, 1])
    for bells in (down, along):
        field = tf.nn.depthwise_conv2d(field, bells, strides=[1, 1, 1, 1], padding="SAME")
    return field


def _sampled(images: Any, rows: Any, columns: Any) -> Any:
    """Return images read at float32 places [n, height, width], bilinearly."""
    height, width = images.shape[1:3]
    # A frame of zeros, on which every place outside ends.
    framed = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = tf.clip_by_value(rows + 1, 0.0, float(height + 1))
    columns = tf.clip_by_value(columns + 1, 0.0, float(width + 1))
    top, left = (tf.minimum(tf.floor(x), last) for x, last in ((rows, float(height)), (columns, float(width))))
    down, along = (rows - top)[..., None], (columns - left)[..., None]
    first = tf.cast(top, tf.int32) * (width + 2) + tf.cast(left, tf.int32)
    flat = tf.reshape(framed, [-1, (height + 2) * (width + 2), images.shape[3]])

    def at(offset: int) -> Any:
        return tf.gather(flat, first + offset, batch_dims=1)

    upper = at(0) * (1 - along) + at(1) * along
    lower = at(width + 2) * (1 - along) + at(width + 3) * along
    return upper * (1 - down) + lower * down
