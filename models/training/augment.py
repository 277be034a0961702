"""Augmentation: training images flipped, shifted, rotated, zoomed, bent and partly covered at random, in the graph."""

from dataclasses import dataclass
from math import pi
from typing import Literal

import tensorflow as tf

from models.training.cutout import cut_out
from models.training.elastic import displacements
from models.training.flip import flipped
from models.training.grid_sample import bilinear_sample, reflected
from models.training.keys import StepKey, salt_of
from models.training.types import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The largest random change of an image in each direction; changes are uniform up to it.

    `flip`: whether half of the images are mirrored left to right. `shift`: pixels. `rotate`: degrees. `zoom`: share of
    the size. `elastic`, `elastic_sigma`: pixels, see `models.training.elastic`. `sharp_fraction`: the share of
    images that are only shifted, by whole pixels. All others are interpolated, which blurs them, and a network trained
    on blurred images alone does worse on sharp ones.
    `border`: what a pixel from outside the image is, 0 or the image's reflection at its edge. `cutout`: the side of a
    covered square in pixels, see `models.training.cutout`.
    """

    flip: bool = False
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    elastic: float = 0.0
    elastic_sigma: float = 4.0
    sharp_fraction: float = 0.0
    border: Literal["zero", "reflect"] = "zero"
    cutout: int = 0

    def __bool__(self) -> bool:
        """Return whether it changes anything."""
        return any((self.flip, self.cutout, self._moves))

    def __call__(self, images: Tensor, key: StepKey) -> Tensor:
        """Return images float32 [n, height, width, channels], each changed by itself."""
        if self.flip:
            images = flipped(images, key)
        if self._moves:
            images = self._moved(images, key)
        if self.cutout:
            images = cut_out(images, key, self.cutout)
        return images

    @property
    def _moves(self) -> bool:
        return any((self.shift, self.rotate, self.zoom, self.elastic))

    def _moved(self, images: Tensor, key: StepKey) -> Tensor:
        """Return images of the same shape, shifted, rotated, zoomed and bent."""
        rows, size = tf.shape(images)[0], tuple(images.shape[1:3])
        blurred = self._blurred(rows, key)
        transforms = self._transforms(key.uniform(salt_of("augment"), rows, [4]) * 2 - 1, blurred, *size)
        if not self.elastic:
            return self._transform(images, transforms)
        # Bent and transformed in one pass over the pixels, as each pass blurs.
        field = displacements(key, size, self.elastic * blurred, self.elastic_sigma)
        y = tf.range(size[0], dtype=tf.float32)[:, None] + field[..., 0]
        x = tf.range(size[1], dtype=tf.float32)[None, :] + field[..., 1]
        a, b, c, d, e, f = tf.unstack(transforms[:, :6, None, None], axis=1)
        at_rows, at_columns = d * x + e * y + f, a * x + b * y + c
        if self.border == "reflect":
            at_rows, at_columns = reflected(at_rows, size[0]), reflected(at_columns, size[1])
        return bilinear_sample(images, at_rows, at_columns)

    def _blurred(self, rows: Tensor, key: StepKey) -> Tensor:
        """Return float32 [n]: 1 for an image that may be interpolated, 0 for one that stays sharp."""
        if not any((self.rotate, self.zoom, self.elastic)):
            return tf.zeros([rows])
        if not self.sharp_fraction:
            return tf.ones([rows])
        return tf.cast(key.uniform(salt_of("sharp"), rows, []) >= self.sharp_fraction, tf.float32)

    def _transform(self, images: Tensor, transforms: Tensor) -> Tensor:
        """Return shifted, rotated and zoomed images. A shift alone is by whole pixels, so images stay sharp."""
        transformed = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=transforms,
            output_shape=tf.shape(images)[1:3],
            interpolation="BILINEAR" if self.rotate or self.zoom else "NEAREST",
            fill_mode="REFLECT" if self.border == "reflect" else "CONSTANT",
            fill_value=0.0,
        )
        return tf.ensure_shape(transformed, images.shape)

    def _transforms(self, drawn: Tensor, blurred: Tensor, height: int, width: int) -> Tensor:
        """Return float32 [n, 8], rows of (a, b, c, d, e, f, 0, 0): output (x, y) is read at (ax+by+c, dx+ey+f).

        `drawn`: float32 [n, 4] in [-1, 1), for shifts right and down, angle and zoom.
        """
        right, down = self.shift * drawn[:, 0], self.shift * drawn[:, 1]
        right, down = (tf.where(blurred > 0, by, tf.round(by)) for by in (right, down))
        angle, scale = drawn[:, 2] * blurred * self.rotate * pi / 180, 1 + drawn[:, 3] * blurred * self.zoom
        cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
        # Around the image's center, then shifted.
        x, y = (width - 1) / 2, (height - 1) / 2
        zero = tf.zeros_like(cos)
        return tf.stack(
            [cos, -sin, x - cos * x + sin * y + right, sin, cos, y - sin * x - cos * y + down, zero, zero], axis=1
        )
