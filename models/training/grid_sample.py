"""Bilinear sampling: images read between their pixels."""

import tensorflow as tf

from models.training.types import Tensor


def bilinear_sample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images float32 [n, height, width, channels] sampled at other positions; pixels outside are 0.

    `rows`, `columns`: float32 [n, height, width], the position to read for each pixel; whole numbers are pixels.
    """
    height, width = images.shape[1:3]
    # A frame of zeros, which every position outside is clipped to.
    framed = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = tf.clip_by_value(rows + 1, 0.0, float(height + 1))
    columns = tf.clip_by_value(columns + 1, 0.0, float(width + 1))
    top, left = (tf.minimum(tf.floor(x), last) for x, last in ((rows, float(height)), (columns, float(width))))
    down, along = (rows - top)[..., None], (columns - left)[..., None]
    first = tf.cast(top, tf.int32) * (width + 2) + tf.cast(left, tf.int32)
    flat = tf.reshape(framed, [-1, (height + 2) * (width + 2), images.shape[3]])

    def at(offset: int) -> Tensor:
        return tf.gather(flat, first + offset, batch_dims=1)

    upper = at(0) * (1 - along) + at(1) * along
    lower = at(width + 2) * (1 - along) + at(width + 3) * along
    return upper * (1 - down) + lower * down


def reflected(positions: Tensor, size: int) -> Tensor:
    """Return positions of any value, each moved into the image as if mirrors stood at its edges.

    The edges are half a pixel outside the first and the last of `size` pixels. So the pixel before the first is the
    first, as in TensorFlow's fill mode REFLECT.
    """
    period = 2.0 * size
    folded = tf.math.floormod(positions + 0.5, period)
    return tf.clip_by_value(tf.minimum(folded, period - folded) - 0.5, 0.0, float(size - 1))
