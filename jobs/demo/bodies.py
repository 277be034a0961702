"""Bodies of requests: read up to a limit, and checked before they are used."""

from math import prod
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray

from jobs.convert.picture import BadPictureError, decode

_MOST_BYTES = 32 << 20  # of a picture file, and of a drawing
_MOST_SIZE = 4096  # pixels of a drawing's side
_WHITE = 255  # behind transparent pixels


async def body_of(request: Request) -> bytes:
    """Return a request's body. Raises HTTPException 413 as soon as it is known to be too long."""
    claimed = request.headers.get("content-length", "0")
    received, length = [], 0
    if not claimed.isdecimal() or int(claimed) > _MOST_BYTES:
        raise _too_long(claimed)
    async for chunk in request.stream():
        received.append(chunk)
        length += len(chunk)
        if length > _MOST_BYTES:
            raise _too_long(f"over {_MOST_BYTES:,}")
    return b"".join(received)


def _too_long(length: str) -> HTTPException:
    return HTTPException(413, f"body: found {length} bytes, expected at most {_MOST_BYTES:,}")


def image_of(body: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return the image in a body of float32 numbers, little-endian: [height, width, channels] in [0, 1].

    Raises HTTPException 422 for another length, and for numbers outside [0, 1].
    """
    if len(body) != 4 * prod(shape):
        numbers = " × ".join(map(str, shape))
        raise HTTPException(422, f"body: found {len(body):,} bytes, expected {4 * prod(shape):,}: float32 [{numbers}]")
    image = np.frombuffer(body, "<f4").astype(np.float32).reshape(shape)
    if not ((image >= 0) & (image <= 1)).all():  # NaN fails, too
        raise HTTPException(422, "body: found numbers outside 0 to 1, expected pixels in [0, 1]")
    return image


def drawing_of(body: bytes, content_type: str, size: str) -> NDArray[Any]:
    """Return a drawing or picture, float32 [rows, columns, 1 or 3] in [0, 1].

    `content_type`: image/… for a picture file; else the body is uint8 [size, size], 255 being ink. `size`: of the
    header X-Size. Raises HTTPException 422.
    """
    if content_type.startswith("image/"):
        try:
            pixels = decode(body, background=_WHITE)
        except BadPictureError as error:
            raise HTTPException(422, f"picture: {error}") from error
        return (pixels / np.iinfo(pixels.dtype).max).astype(np.float32)
    if not (size.isdecimal() and len(size) < 6 and 1 <= int(size) <= _MOST_SIZE):
        raise HTTPException(422, f"X-Size: found {size!r}, expected the drawing's pixels a side, 1 to {_MOST_SIZE}")
    side = int(size)
    if len(body) != side * side:
        raise HTTPException(422, f"body: found {len(body):,} bytes, expected {side * side:,}: uint8 [{side}, {side}]")
    pixels = np.frombuffer(body, np.uint8).reshape(side, side, 1)
    return (np.arange(256) / 255.0).astype(np.float32)[pixels]  # as `jobs.prepare.decode.normalize`
