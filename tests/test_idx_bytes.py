"""The IDX reader on arbitrary bytes, in bounded memory."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.prepare import idx
from tests.support.idx_faults import (
    GOLDEN,
    MB,
    READERS,
    arrays,
    fault,
    faults,
    folder,
    header,
    peak_memory,
    put,
    zeros_gz,
)

__all__ = ["folder"]  # a fixture


# --- arbitrary bytes


def agrees(path: Path, expected: NDArray[Any] | None = None) -> None:
    """Check that all readers agree: they return the same array, or all raise an IdxError of one line."""
    destination = path.with_name("any-plain")
    destination.unlink(missing_ok=True)
    try:
        array = idx.read(path)
    except idx.IdxError:
        faults(path, idx.check, idx.read)
        return
    known = idx.check(path)
    assert idx.read_header(path) == idx.inflate(path, destination) == known
    assert destination.stat().st_size == known.file_bytes
    assert idx.read_rows(destination, known, 0, known.rows).tobytes() == array.tobytes()
    assert expected is None or array.tobytes() == expected.tobytes()


# Most bytes fail at byte 0. These start like an archive, so that later checks see arbitrary bytes too.
BEGINNINGS = [b"", b"\0\0", b"\0\0\x08\x01", b"\0\0\x0b\x02\0\0\0", header(0x08, 3), b"\x1f\x8b", b"\x1f\x8b\x08\0"]


@settings(max_examples=200, deadline=None)
@given(start=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=60), pack=st.booleans())
def test_all_readers_agree_on_arbitrary_bytes(folder: Path, start: bytes, rest: bytes, pack: bool) -> None:
    agrees(put(folder / "any", gzip.compress(start + rest) if pack else start + rest))


EDITS = st.lists(
    st.tuples(st.sampled_from("rdi"), st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), max_size=3
)


@settings(max_examples=200, deadline=None)
@given(array=arrays(min_rows=1), edits=EDITS, cut=st.integers(0, 3), pack=st.sampled_from(["", "before", "after"]))
def test_all_readers_agree_on_mutated_archives(
    folder: Path, array: NDArray[Any], edits: list[tuple[str, int, bytes]], cut: int, pack: str
) -> None:
    path = folder / "mutated"
    idx.write(path, array, compress=pack == "before")
    valid = path.read_bytes()
    data = bytearray(valid)
    for kind, where, new in edits:
        at = where % (len(data) + 1)
        data[at : at + (0 if kind == "i" else len(new))] = b"" if kind == "d" else new
    del data[len(data) - cut :]
    # gzip has a checksum: what still passes must be the array itself.
    checked = pack == "before" and data[:2] == b"\x1f\x8b"
    put(path, gzip.compress(data) if pack == "after" else bytes(data))
    agrees(path, array.astype(array.dtype.newbyteorder("=")) if checked or data == valid else None)


# --- memory


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = put(tmp_path / "archive", pack(header(0x08, 2**32 - 1, 1024) + bytes(MB)))
    with peak_memory(4 * MB):
        faults(path, *READERS)


def test_read_rows_allocates_nothing_for_missing_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", header(0x08, 2**32 - 1, 1024) + bytes(MB))
    known = idx.Header(np.dtype("u1"), (2**32 - 1, 1024))
    with peak_memory(4 * MB):
        text = fault(path, lambda path: idx.read_rows(path, known, 0, 300_000))
    assert f"byte {MB + 12}: found the end of the data" in text


def test_memory_grows_only_with_the_bytes_that_gzip_delivers(tmp_path: Path) -> None:
    delivered = 2 * MB
    path = put(
        tmp_path / "archive.gz", gzip.compress(header(0x08, 1900 * MB) + np.random.default_rng(2).bytes(delivered))
    )
    assert idx.read_header(path).rows == 1900 * MB
    with peak_memory(delivered + 64 * MB):
        assert "end of the data" in fault(path, idx.read)


def test_a_gzip_bomb_is_stopped_at_its_first_extra_byte(tmp_path: Path) -> None:
    path = zeros_gz(tmp_path / "bomb.gz", GOLDEN, 200 * MB)
    assert path.stat().st_size < MB
    with peak_memory(4 * MB):
        text = faults(path, idx.check, idx.read)
    assert "byte 28 of the inflated data: found more data" in text


def test_valid_zeros_are_inflated_in_bounded_memory(tmp_path: Path) -> None:
    path = zeros_gz(tmp_path / "zeros.gz", header(0x08, 100 * MB), 100 * MB)
    assert path.stat().st_size < MB
    with peak_memory(8 * MB):
        assert idx.inflate(path, tmp_path / "plain").rows == 100 * MB
    assert (tmp_path / "plain").stat().st_size == 100 * MB + 8
    with peak_memory(8 * MB):
        assert idx.read_rows(tmp_path / "plain", idx.read_header(tmp_path / "plain"), 70 * MB, 73 * MB).size == 3 * MB
    with peak_memory(164 * MB):
        assert idx.read(path).size == 100 * MB
    (tmp_path / "plain").unlink()


def test_writing_needs_memory_for_one_block_at_a_time(tmp_path: Path) -> None:
    with peak_memory(8 * MB):
        idx.write(tmp_path / "archive.gz", np.broadcast_to(np.float32(1), (10_000, 1000)))
    assert zlib.crc32((idx.read(tmp_path / "archive.gz") == 1).tobytes()) == zlib.crc32(b"\x01" * 10 * MB)
