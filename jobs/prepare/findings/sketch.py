"""The work of an executor: reduce the images of a shard to what the driver needs to compare all images.

A sketch takes about 230 bytes per image, whatever its size. Pictures that differ only in brightness or contrast have
the same sketch, as each image is centered and scaled to length 1 first. The sketch is 192 random projections of the
image's 16 × 16 lowest frequencies (orthonormal DCT-II of the channels' sum). Projections keep distances: the mean of
the squared differences of two sketches is the squared distance of the two pictures, within about 5 % (Johnson and
Lindenstrauss, 1984; standard error √(1 / 2 · 192)).
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

PROJECTIONS = 192
STEPS = 32  # of an int8 in a projection's unit; projections are about standard normal, so ±4 is never exceeded
DIGEST_BYTES = 16  # 128 bits: two different images never collide by chance
_FREQUENCIES = 16
_SMALLEST = 1e-6  # contrast (standard deviation × √values) below which an image has no picture


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The rows of a split, or of a part of it, in shard order.

    `labels`: int32 [n], class numbers. `indices`: int64 [n], as in the dataset. `digests`: void [n], equal for equal
    pixels. `lows`, `highs`, `means`, `contrasts`: float32 [n], of an image's values in [0, 1]; contrast is their
    standard deviation. `projections`: int8 [n, 192].
    """

    labels: NDArray[Any]
    indices: NDArray[Any]
    digests: NDArray[Any]
    lows: NDArray[Any]
    highs: NDArray[Any]
    means: NDArray[Any]
    contrasts: NDArray[Any]
    projections: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)


def read_shard(path: Path, values: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return a shard's images float32 [n, values], labels int32 [n] and indices int64 [n]."""
    table = pq.ParquetFile(path).read().combine_chunks()
    images = table["image"].combine_chunks().flatten().to_numpy().reshape(-1, values)
    return images, table["label"].to_numpy(), table["index"].to_numpy()


def sketch_images(
    images: NDArray[Any], labels: NDArray[Any], indices: NDArray[Any], shape: tuple[int, int, int]
) -> Sketch:
    """Return the sketch of images float32 [n, values]."""
    digests = b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in images)
    means, lengths = centered(images)
    return Sketch(
        labels=labels,
        indices=indices,
        digests=np.frombuffer(digests, f"V{DIGEST_BYTES}"),
        lows=images.min(axis=1),
        highs=images.max(axis=1),
        means=means,
        contrasts=(lengths / np.sqrt(images.shape[1])).astype(np.float32),
        projections=project(images, means, lengths, shape),
    )


def centered(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean, and the length of the difference from the mean, of float32 [n, values]: float32 [n] each."""
    means = images.mean(axis=1)
    squares = np.einsum("ij,ij->i", images, images) - images.shape[1] * means.astype(np.float64) ** 2
    return means, np.sqrt(np.maximum(squares, 0)).astype(np.float32)


def project(
    images: NDArray[Any], means: NDArray[Any], lengths: NDArray[Any], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Return the projections of images float32 [n, values], int8 [n, 192]. An image without contrast has zeros."""
    height, width, channels = shape
    summed = images.reshape(-1, height, width, channels).sum(axis=3) if channels > 1 else images
    by_width = summed.reshape(-1, width) @ _dct(width).T
    by_height = np.matmul(_dct(height), by_width.reshape(len(images), height, -1))
    low = by_height.reshape(len(images), -1) / np.float32(np.sqrt(channels))
    low[:, 0] -= means * np.float32(np.sqrt(height * width * channels))  # the constant part
    low /= np.maximum(lengths, _SMALLEST)[:, None]
    low[lengths <= _SMALLEST] = 0
    steps = np.rint(low @ _directions(low.shape[1]))
    return np.clip(steps, -127, 127).astype(np.int8)


@cache
def _dct(size: int) -> NDArray[Any]:
    """Return the lowest frequencies of the orthonormal DCT-II, float32 [at most 16, size]."""
    count = min(_FREQUENCIES, size)
    waves = np.cos(np.pi * (np.arange(size) + 0.5) * np.arange(count)[:, None] / size) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


@cache
def _directions(size: int) -> NDArray[Any]:
    random = np.random.default_rng(0x5CE7C4)
    return (STEPS * random.standard_normal((size, PROJECTIONS))).astype(np.float32)
