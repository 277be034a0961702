"""Images as PNG: small ones for pages, by Pillow, and those of 16 bits a channel, which Pillow writes in gray only."""

import base64
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

_GRAY, _RGB = 0, 2  # PNG's color types
_LONGEST_SIDE = 128  # pixels; larger images are reduced to keep the report small


def data_uri(image: NDArray[Any]) -> str:
    """Return an image, float [height, width, channels] in [0, 1], as a data: URI of a PNG.

    A large image is reduced: a pixel is then the mean of n × n. Three channels are red, green and blue. For any other
    number of channels the mean is shown, as PNG has no color type for it.
    """
    from PIL import Image

    if image.shape[2] not in (1, 3):
        image = image.mean(axis=2, keepdims=True)
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    step = -(-max(image.shape[:2]) // _LONGEST_SIDE)
    return uri_of(picture.reduce(step) if step > 1 else picture)


def uri_of(picture: "Image") -> str:
    """Return a Pillow image as a data: URI of a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


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
