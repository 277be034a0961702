"""Hand-made IDX archives, and what all their faults have in common, for the tests of the format."""

import gzip
import math
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from jobs.prepare import idx

MB = 1_000_000
TYPES = ["u1", "i1", "i2", "i4", "f4", "f8"]
READERS: list[Callable[[Path], Any]] = [idx.read_header, idx.check, idx.read]

# Two 2 x 3 images as bytes: the reader and the writer must agree with the format, not only with each other.
GOLDEN = bytes.fromhex("00000803 00000002 00000002 00000003 000102030405 fffefdfcfbfa")
GOLDEN_ROWS = [[[0, 1, 2], [3, 4, 5]], [[255, 254, 253], [252, 251, 250]]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


def header(code: int, *sizes: int) -> bytes:
    return struct.pack(f">HBB{len(sizes)}I", 0, code, len(sizes), *sizes)


def put(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


def fault(path: Path, call: Callable[[Path], Any]) -> str:
    """Return the text of the IdxError that `call` must raise, after checking the form that all of them share."""
    with pytest.raises(idx.IdxError) as caught:
        call(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: byte")
    assert re.search(r"byte \d+.*: found .+, expected .+; fix: .+", text)
    assert "\n" not in text
    return text


def faults(path: Path, *calls: Callable[[Path], Any]) -> str:
    """Like `fault` for several calls that must raise the same text. `inflate` must too, and leave no file."""
    destination = path.with_name("inflated")
    destination.write_bytes(b"of an earlier run")
    texts = {fault(path, lambda source: idx.inflate(source, destination))} | {fault(path, call) for call in calls}
    assert not destination.exists()
    assert not list(path.parent.glob(".*tmp*"))
    assert len(texts) == 1
    return texts.pop()


@contextmanager
def peak_memory(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def zeros_gz(path: Path, start: bytes, size: int) -> Path:
    """Write a gzip file of `start` and `size` zeros without having them in memory."""
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(start)
        for _ in range(size // MB):
            file.write(bytes(MB))
    return path


def arrays(min_rows: int = 0) -> st.SearchStrategy[NDArray[Any]]:
    shapes = st.tuples(st.integers(min_rows, 9), st.lists(st.integers(1, 4), max_size=3)).map(lambda s: (s[0], *s[1]))
    orders = st.sampled_from("<>")
    types = st.tuples(orders, st.sampled_from(TYPES)).map(lambda t: np.dtype(t[0] + t[1]))
    # Any bits at all: NaNs must keep theirs.
    return st.tuples(types, shapes).flatmap(
        lambda t: hnp.arrays(np.uint8, (math.prod(t[1]) * t[0].itemsize,)).map(lambda a: a.view(t[0]).reshape(t[1]))
    )
