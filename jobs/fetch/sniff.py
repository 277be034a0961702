"""The first bytes of a file: whether it is an IDX archive, and its shape. Needs no NumPy, and trusts nothing.

This only helps to find archives. `jobs.archive_headers` checks the ones that are used.
"""

import gzip
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.archive import GZIP_MAGIC, Kind

_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_MOST_DIMENSIONS = 4
_MOST_COLUMNS = 16  # of labels; an image has more pixels


@dataclass(frozen=True)
class Sniffed:
    """The type of the values and the shape that a file's header promises."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The size of the first dimension."""
        return self.shape[0]

    @property
    def kind(self) -> Kind | None:
        """What such an archive holds; None where it may be either."""
        if len(self.shape) == 1:
            return None if self.dtype.startswith("float") else "labels"
        if len(self.shape) > 2:
            return "images"
        if self.shape[1] > _MOST_COLUMNS:
            return "images"
        return "labels" if self.dtype in ("int16", "int32") else None

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))} of {self.dtype}"


def sniff(path: Path) -> Sniffed | None:
    """Return what the header of an IDX archive promises, plain or gzip; None for any other or unreadable file."""
    start = b""
    with suppress(OSError, EOFError, zlib.error):
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(2)
        with gzip.open(path) if start == GZIP_MAGIC else path.open("rb") as file:
            start = file.read(4 + 4 * _MOST_DIMENSIONS)
    if len(start) < 8 or start[:2] != b"\0\0" or start[2] not in _TYPES or not 1 <= start[3] <= _MOST_DIMENSIONS:
        return None
    if len(start) < 4 + 4 * start[3]:
        return None
    return Sniffed(_TYPES[start[2]], struct.unpack_from(f">{start[3]}I", start, 4))
