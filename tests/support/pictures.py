"""Pictures for tests: PNGs of any depth, filter and interlacing, by the specification and not by our encoder."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Adam7: first row, first column, row step, column step of each pass (source: PNG Specification, section 8.2).
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png_file(pixels: NDArray[Any], filters: Sequence[int] = (0,), *, interlaced: bool = False) -> bytes:
    """Return the PNG of uint8 or uint16 [height, width, 1 to 4]. `filters`: the types of the rows, in turn."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOR_TYPES[channels], 0, 0, int(interlaced))
    images = [pixels[y::dy, x::dx] for y, x, dy, dx in _PASSES] if interlaced else [pixels]
    data = b"".join(_filtered(image, filters) for image in images if image.size)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(pixels: NDArray[Any], filters: Sequence[int]) -> bytes:
    stride = pixels.itemsize * pixels.shape[2]
    rows = [row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels]
    before = bytes(len(rows[0]))
    result = []
    for number, row in enumerate(rows):
        kind = filters[number % len(filters)]
        left, corner = bytes(stride) + row, bytes(stride) + before
        line = [(value - _predicted(kind, left[i], before[i], corner[i])) % 256 for i, value in enumerate(row)]
        result.append(bytes([kind, *line]))
        before = row
    return b"".join(result)


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 4:  # Paeth
        guess = left + above - corner
        return min((left, above, corner), key=lambda value: abs(guess - value))
    return (0, left, above, (left + above) // 2)[kind]


def few_bits_png(values: Sequence[int], bits: int) -> bytes:
    """Return the gray PNG of one row of values of 1, 2 or 4 bits, which fill whole bytes."""
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(len(values) * bits // 8, "big")
    data = zlib.compress(b"\0" + row)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def encoded(pixels: NDArray[Any], form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """Return a picture file written by Pillow, of uint8 [height, width] or [height, width, 3 or 4]."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def random_pixels(seed: int, *shape: int, dtype: str = "u1") -> NDArray[Any]:
    """Return random pixels over the whole range of the type."""
    return np.random.default_rng(seed).integers(0, 256 ** np.dtype(dtype).itemsize, shape).astype(dtype)


def put_pictures(folder: Path, count: int, shape: tuple[int, int, int] = (6, 5, 1), dtype: str = "u1") -> Path:
    """Write `SPLIT/CLASS/N.png`, `count` random pictures for each of two splits and two classes; return the folder."""
    for at, (split, name) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = random_pixels(1000 * at + number, *shape, dtype=dtype)
            (folder / split / name / f"{number}.png").write_bytes(png_file(pixels))
    return folder
