"""Requests to the prediction server that are damaged at random, reproducibly."""

import gzip
import io
import math
import random
import struct

from PIL import Image

_KINDS = ("application/octet-stream", "application/x-idx", "image/png", "image/jpeg", "text/html", "", "x/y; a=b", "*")
_HEADERS = (
    "Content-Encoding: gzip", "Content-Length: -1", "Content-Length: 5, 6", "Transfer-Encoding: chunked, gzip",
    "Expect: 100-continue", "Authorization: Bearer \u00e4", "Connection: upgrade", "Upgrade: websocket",
    "Range: bytes=0-", "Host: a", "X: " + "y" * 70_000, ": z", "Cookie: \x01", "Content-Type: image/png",
)  # fmt: skip
_QUERIES = (
    "?top=3",
    "?top=-1",
    "?top=1e9",
    "?top=" + "9" * 500,
    "?resize=maybe",
    "?resize=1",
    "?%00=%ff&&==",
    "?top=1&top=x",
    "#a",
)
_METHODS = ("POST", "POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "TRACE", "post", "\x00")
_PATHS = (
    "/predict",
    "/predict",
    "/predict",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "//",
    "/%ff%00",
    "*",
    "/predict/..",
)


def hostile_request(randomness: random.Random, shape: tuple[int, int, int]) -> bytes:
    """Return the bytes of one request, after which the client expects the end of the connection.

    Three in four are HTTP with odd words or bodies; one in four is also damaged as bytes.
    """
    choose = randomness.choice
    body = _body(randomness, shape)
    path = choose(_PATHS) + (choose(_QUERIES) if randomness.random() < 0.4 else "")
    lines = [f"{choose(_METHODS)} {path} HTTP/1.{choose('1110')}", "Host: test", "Connection: close"]
    lines += [f"Content-Type: {choose(_KINDS)}", f"Content-Length: {len(body)}"]
    if randomness.random() < 0.3:
        lines.insert(randomness.randrange(1, len(lines) + 1), choose(_HEADERS))
    request = "\r\n".join([*lines, "", ""]).encode() + body
    return _damaged(request, randomness) if randomness.random() < 0.25 else request


def _body(randomness: random.Random, shape: tuple[int, int, int]) -> bytes:
    size = math.prod(shape)
    kind = randomness.randrange(7)
    if kind == 0:
        return randomness.randbytes(randomness.choice((0, 1, size - 1, size, size * 3, 5000)))
    if kind in (1, 2):
        picture = io.BytesIO()
        mode = randomness.choice(("L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"))
        form = "JPEG" if kind == 2 and mode in ("L", "RGB", "CMYK") else "PNG" if mode != "CMYK" else "JPEG"
        Image.new(mode, (randomness.randrange(1, 99), randomness.randrange(1, 99))).save(picture, form)
        return _damaged(picture.getvalue(), randomness)
    if kind == 3:  # a picture that claims any size
        claimed = struct.pack(">II", randomness.randrange(2**32), randomness.randrange(2**16))
        return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + claimed + randomness.randbytes(40)
    sizes = [randomness.choice((0, 1, 2, 2**31, 2**32 - 1)), *shape][: randomness.randrange(1, 5)]
    archive = struct.pack(f">HBB{len(sizes)}I", 0, randomness.choice((8, 9, 11, 13, 14, 0)), len(sizes), *sizes)
    archive += randomness.randbytes(randomness.choice((0, size, 2 * size)))
    if kind == 6:
        archive = gzip.compress(archive)
    return _damaged(archive, randomness) if randomness.random() < 0.5 else archive


def _damaged(data: bytes, randomness: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(randomness.randrange(4)):
        if damaged:
            place = randomness.randrange(len(damaged))
            match randomness.randrange(3):
                case 0:
                    damaged[place] = randomness.randrange(256)
                case 1:
                    del damaged[place : place + randomness.randrange(20)]
                case 2:
                    damaged[place:place] = randomness.randbytes(randomness.randrange(20))
    return bytes(damaged)
