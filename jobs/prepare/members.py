"""A gzip archive of several members, such as bgzip writes: ranges of members are inflated in parallel.

Nothing in the format says where a member starts. So a cut is made where the bytes look like a start, and the ranges
count only if the members of each end exactly where the next range starts: together they then are what a reader from the
start sees (RFC 1952: a gzip file is a series of members, one after another). Otherwise the archive is inflated as one
stream, which also reports what is wrong with it.
"""

import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from jobs.files import naming_full_disk

_START = b"\x1f\x8b\x08"  # gzip, deflate
_GZIP = 31  # of zlib's `wbits`: with the header, and verify the checksum
_RANGE_BYTES = 32 << 20  # of a compressed file
_TRIED = 64 << 10  # bytes that a start must be followed by without a fault
_BLOCK = 1 << 20
_MOST_RATIO = 1032  # of plain to compressed bytes, by DEFLATE: https://zlib.net/zlib_tech.html


@dataclass(frozen=True, kw_only=True)
class MemberRange:
    """Bytes [start, stop) of a gzip file, to be inflated into `target`. `most`: plain bytes that may come of them."""

    path: Path
    start: int
    stop: int
    target: Path
    most: int


def ranges(path: Path, target: Path, plain_bytes: Callable[[], int]) -> list[MemberRange]:
    """Return ranges that may be whole members, in order; none for a file that is short or has a single member.

    Ranges are inflated into files beside `target`. `plain_bytes`: returns what the file promises to hold.
    """
    bounds = _bounds(path)
    if len(bounds) <= 2:
        return []
    most = plain_bytes()
    return [
        MemberRange(path=path, start=start, stop=stop, target=target.with_name(f"{target.name}.{number}"), most=most)
        for number, (start, stop) in enumerate(pairwise(bounds))
    ]


def _bounds(path: Path) -> list[int]:
    size = path.stat().st_size
    if size < 2 * _RANGE_BYTES:
        return []
    found = [0]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for first in range(_RANGE_BYTES, size, _RANGE_BYTES):
            start = data.find(_START, first, first + _RANGE_BYTES)
            while start >= 0 and not _is_start(data[start : start + _TRIED]):
                start = data.find(_START, start + 1, first + _RANGE_BYTES)
            found += [start] if start >= 0 else []
    return [*found, size]


def _is_start(data: bytes) -> bool:
    try:
        return bool(zlib.decompressobj(_GZIP).decompress(data))
    except zlib.error:
        return False


def inflate_range(task: MemberRange) -> int:
    """Write the members of a range as plain bytes; return how many these are, −1 unless they are whole members."""
    written = 0
    try:
        with naming_full_disk(task.target), task.path.open("rb") as source, task.target.open("wb") as target:
            source.seek(task.start)
            for block in _plain(source, task.stop - task.start):
                written += len(block)
                if written > min(task.most, _MOST_RATIO * (task.stop - task.start)):
                    return -1
                target.write(block)
    except (EOFError, zlib.error):
        return -1
    return written


def _plain(source: IO[bytes], left: int) -> Iterator[bytes]:
    """Yield the plain bytes of the members in the next `left` bytes, 1 MiB at a time.

    Raises zlib.error for a damaged member, EOFError if the last one is not whole.
    """
    data = b""
    while data or left:
        if not data:
            data, left = _more(source, left)
        data = data.lstrip(b"\0")  # padding between members
        if not data:
            continue
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            block = member.decompress(data, _BLOCK)
            yield block
            data = member.unconsumed_tail
            if not (data or block or member.eof):
                data, left = _more(source, left)
        data = member.unused_data


def _more(source: IO[bytes], left: int) -> tuple[bytes, int]:
    data = source.read(min(_BLOCK, left))
    if not data:
        raise EOFError
    return data, left - len(data)
