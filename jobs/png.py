"""Write small images as PNG, with the standard library alone.

Hand-rolled because an unfiltered 8-bit PNG takes 20 lines, so the report needs neither matplotlib nor an image library.
"""

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRAY, _RGB = 0, 2  # PNG's color types
_LONGEST_SIDE = 128  # pixels; larger images are subsampled to keep the report small


def data_uri(image: NDArray[Any]) -> str:
    """Return an image, float [height, width, channels] in [0, 1], as a data: URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(encode(thumbnail(image))).decode()


def thumbnail(image: NDArray[Any]) -> NDArray[Any]:
    """Return uint8 [height, width, 1 or 3] of float [height, width, channels] in [0, 1].

    Keeps every n-th pixel of a large image. Three channels are red, green and blue. For any other number of channels
    the mean is shown, as PNG has no color type for it.
    """
    step = -(-max(image.shape[:2]) // _LONGEST_SIDE)
    small = image[::step, ::step]
    if small.shape[2] not in (1, 3):
        small = small.mean(axis=2, keepdims=True)
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


def encode(pixels: NDArray[Any]) -> bytes:
    """Return the PNG of uint8 or uint16 [height, width, 1] (gray) or [height, width, 3] (RGB).

    Source: Portable Network Graphics (PNG) Specification, W3C: signature, IHDR, IDAT, IEND.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, _GRAY if channels == 1 else _RGB, 0, 0, 0)
    # Each row starts with its filter type; 0 means no filter.
    values = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    rows = np.pad(values, ((0, 0), (1, 0)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
