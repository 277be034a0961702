"""The IDX reader and writer: the format itself, and every fault a download can have."""

import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.errors import InputError
from jobs.prepare import idx
from tests.support.idx_faults import GOLDEN, GOLDEN_ROWS, MB, READERS, arrays, fault, faults, folder, header, put

__all__ = ["folder"]  # a fixture


# --- the format


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_golden_archive_is_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = put(tmp_path / "any-name", pack(GOLDEN))
    expected = idx.Header(np.dtype("u1"), (2, 2, 3))
    assert idx.read_header(path) == idx.check(path) == expected
    rows = idx.read(path)
    assert rows.dtype == np.uint8
    assert rows.tolist() == GOLDEN_ROWS
    assert idx.inflate(path, tmp_path / "plain") == expected
    assert (tmp_path / "plain").read_bytes() == GOLDEN


def test_golden_archive_is_written(tmp_path: Path) -> None:
    idx.write(tmp_path / "plain", np.array(GOLDEN_ROWS, np.uint8))
    assert (tmp_path / "plain").read_bytes() == GOLDEN


@pytest.mark.parametrize(
    ("data", "dtype", "values"),
    [
        ("00000901 00000002 7f80", "int8", [127, -128]),
        ("00000b01 00000002 0102 fffe", "int16", [258, -2]),
        ("00000c01 00000002 01020304 ffffffff", "int32", [16909060, -1]),
        ("00000d01 00000002 3f800000 c0200000", "float32", [1.0, -2.5]),
        ("00000e01 00000001 3ff8000000000000", "float64", [1.5]),
    ],
)
def test_golden_values_of_each_type(tmp_path: Path, data: str, dtype: str, values: list[float]) -> None:
    path = put(tmp_path / "archive", bytes.fromhex(data))
    array = idx.read(path)
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.tolist() == values
    idx.write(tmp_path / "again", array)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_header_properties() -> None:
    images = idx.Header(np.dtype(">i2"), (7, 2, 3, 5))
    assert (images.rows, images.row_shape, images.row_bytes, images.header_bytes) == (7, (2, 3, 5), 60, 20)
    assert (images.data_bytes, images.file_bytes) == (420, 440)
    labels = idx.Header(np.dtype("u1"), (7,))
    assert (labels.rows, labels.row_shape, labels.row_bytes, labels.file_bytes) == (7, (), 1, 15)


def test_sizes_beyond_64_bits_do_not_overflow() -> None:
    assert idx.Header(np.dtype(">f8"), (2**32 - 1,) * 4).data_bytes == 8 * (2**32 - 1) ** 4


@settings(max_examples=100, deadline=None)
@given(array=arrays(), compress=st.booleans())
def test_round_trip(folder: Path, array: NDArray[Any], compress: bool) -> None:
    path = folder / "round-trip"
    idx.write(path, array, compress=compress)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == compress
    back = idx.read(path)
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.dtype.isnative
    assert back.flags.writeable
    assert back.shape == array.shape == idx.check(path).shape
    assert back.tobytes() == array.astype(back.dtype).tobytes()


@settings(max_examples=60, deadline=None)
@given(array=arrays(), data=st.data())
def test_a_range_is_a_slice(folder: Path, array: NDArray[Any], data: st.DataObject) -> None:
    path = folder / "range"
    idx.write(path, array)
    start = data.draw(st.integers(0, len(array)))
    stop = data.draw(st.integers(start, len(array)))
    rows = idx.read_rows(path, idx.read_header(path), start, stop)
    assert rows.dtype.isnative
    assert rows.shape == array[start:stop].shape
    assert rows.tobytes() == array[start:stop].astype(rows.dtype).tobytes()


@pytest.mark.parametrize("array", [np.arange(24).reshape(4, 6).astype("i4").T, np.arange(40, dtype="i2")[::3]])
def test_any_memory_layout_is_written(tmp_path: Path, array: NDArray[Any]) -> None:
    idx.write(tmp_path / "archive", array)
    assert np.array_equal(idx.read(tmp_path / "archive"), array)


def test_many_blocks_come_back(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (1300, 1000), np.int16)
    for name in ("archive", "archive.gz"):
        idx.write(tmp_path / name, array)
        assert np.array_equal(idx.read(tmp_path / name), array)


def test_the_name_decides_on_gzip_and_the_same_array_gives_the_same_bytes(tmp_path: Path) -> None:
    array = np.arange(1000, dtype="i4")
    for name in ("a", "b.gz", "c.gz"):
        idx.write(tmp_path / name, array)
    assert gzip.decompress((tmp_path / "b.gz").read_bytes()) == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b.gz").read_bytes() == (tmp_path / "c.gz").read_bytes()
    assert (tmp_path / "b.gz").read_bytes()[3:8] == bytes(5)  # no flags (so no name), no time
    idx.write(tmp_path / "d.gz", array, compress=False)
    assert (tmp_path / "d.gz").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, bool), "bool"),
        (np.array(["a"]), "U1"),
        (np.uint8(1), "0 dimensions"),
        (np.zeros((1,) * 5, np.uint8), "5 dimensions"),
        (np.zeros((2, 0), np.uint8), "(2, 0)"),
        (np.broadcast_to(np.uint8(0), (2**32,)), "4294967296"),
    ],
)
def test_write_refuses_what_the_format_cannot_hold(tmp_path: Path, array: NDArray[Any], word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(word)):
        idx.write(tmp_path / "archive", array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 0), (0, 3), (3, 3)])
def test_bad_range(tmp_path: Path, start: int, stop: int) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    with pytest.raises(ValueError, match=f"rows {start} to {stop}.*0 to 2"):
        idx.read_rows(path, idx.read_header(path), start, stop)


def test_no_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", header(0x0C, 0, 28, 28))
    assert idx.read(path).shape == (0, 28, 28)
    assert idx.read_rows(path, idx.check(path), 0, 0).shape == (0, 28, 28)


def test_gzip_members_may_follow_each_other_and_be_padded_with_zeros(tmp_path: Path) -> None:
    members = [GOLDEN[:2], b"", GOLDEN[2:17], GOLDEN[17:]]
    path = put(tmp_path / "archive.gz", b"".join(map(gzip.compress, members)) + bytes(20_000))
    assert idx.read(path).tolist() == GOLDEN_ROWS
    assert idx.inflate(path, tmp_path / "plain") == idx.check(path)
    assert (tmp_path / "plain").read_bytes() == GOLDEN


# --- faults


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("data", "offset", "words"),
    [
        (b"", 0, ["the end of the file"]),
        (b"\0\0\x08", 3, ["the end of the file", "header"]),
        (b"\0\0\x08\x03\0\0\0\x01\0", 9, ["the end of the file", "header"]),
        (b"\x89PNG and more", 0, ["89 50", "00 00", "is this an IDX file?"]),
        (b"\x89", 0, ["89", "00 00"]),
        (b"\0\x01\x08\x01\0\0\0\0", 0, ["00 01", "00 00"]),
        (header(0x0A, 1) + b"a", 2, ["0x0a", "0x08 (uint8)", "0x09 (int8)", "0x0b (int16)", "0x0e (float64)"]),
        (header(0x08), 3, ["0 dimensions", "1 to 4"]),
        (header(0x08, 1, 1, 1, 1, 1) + b"a", 3, ["5 dimensions", "1 to 4"]),
        (header(0x08, 3, 0), 8, ["size 0"]),
        (header(0x08, 3, 1, 0), 12, ["size 0"]),
        (header(0x08, 0, 2**32 - 1, 2**32 - 1), 8, [str((2**32 - 1) ** 2), str(2**63 - 1)]),
        (GOLDEN[:-5], 23, ["end of the data", "28 bytes", "2 x 2 x 3 of uint8", "download it again"]),
    ],
)
def test_bad_plain_bytes(
    tmp_path: Path, pack: Callable[[bytes], bytes], data: bytes, offset: int, words: list[str]
) -> None:
    path = put(tmp_path / "archive", pack(data))
    text = faults(path, idx.check, idx.read)
    place = f"byte {offset} of the inflated data:" if pack is gzip.compress else f"byte {offset}:"
    for word in [place, *words]:
        assert word in text


def test_a_plain_file_of_the_wrong_length_is_refused_by_its_header(tmp_path: Path) -> None:
    long = faults(put(tmp_path / "long", GOLDEN + b"abc"), *READERS)
    assert "byte 28: found 3 trailing bytes, expected the end after the 28 bytes" in long
    short = faults(put(tmp_path / "short", GOLDEN[:-1]), *READERS)
    assert "byte 27: found the end of the data, expected 28 bytes" in short
    huge = faults(put(tmp_path / "huge", header(0x0C, 2**32 - 1, 2**30, 2**30) + b"data"), *READERS)
    assert f"byte 20: found the end of the data, expected {16 + (2**32 - 1) * 2**62} bytes" in huge
    wide = faults(put(tmp_path / "wide", header(0x0E, *[2**32 - 1] * 4) + b"data"), *READERS)
    assert f"byte 8: found rows of {8 * (2**32 - 1) ** 3} bytes" in wide


def test_gzip_that_cannot_hold_what_its_header_promises_is_refused_unread(tmp_path: Path) -> None:
    path = put(tmp_path / "archive.gz", gzip.compress(header(0x08, 2**32 - 1, 1024) + bytes(100)))
    text = faults(path, *READERS)
    size = path.stat().st_size
    for word in ["byte 4 of the inflated data", str(12 + 1024 * (2**32 - 1)), str(size * 1032), f"{size} compressed"]:
        assert word in text


def test_the_densest_possible_gzip_is_not_refused(tmp_path: Path) -> None:
    data = header(0x08, 4 * MB) + bytes(4 * MB)
    path = put(tmp_path / "archive.gz", gzip.compress(data, compresslevel=9))
    assert len(data) / path.stat().st_size > 1000
    assert idx.check(path) == idx.read_header(path)
    assert not idx.read(path).any()


@pytest.mark.parametrize("extra", [b"z", b"z" * 3 * MB])
def test_gzip_that_holds_more_than_its_header_promises(tmp_path: Path, extra: bytes) -> None:
    path = put(tmp_path / "archive.gz", gzip.compress(GOLDEN + extra, compresslevel=1))
    assert idx.read_header(path).shape == (2, 2, 3)
    text = faults(path, idx.check, idx.read)
    assert "byte 28 of the inflated data: found more data, expected the end after the 28 bytes" in text


def noise(rows: int) -> bytes:
    """Return an archive that gzip cannot make smaller, so that its deflate stream spans many buffers."""
    return header(0x08, rows) + np.random.default_rng(1).bytes(rows)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:], "CRC check failed"),
        (lambda packed: packed[:-1] + bytes([packed[-1] ^ 1]), "Incorrect length"),
        (lambda packed: packed[:-1], "ends too early"),
        (lambda packed: packed[:-9], "ends too early"),
        (lambda packed: packed[:150_000], "ends too early"),
        (lambda packed: packed + b"garbage", "ga"),
        (lambda packed: packed + bytes(9000) + b"\x1f", "1f"),
        (lambda packed: packed + packed[:12], "ends too early"),
        (lambda packed: packed + b"\x1f\x8b\x08", "ends too early"),
        (lambda packed: packed[:10] + b"\xff" * 100 + packed[110:], "block type"),
    ],
)
def test_damaged_gzip(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    packed = damage(gzip.compress(noise(300_000)))
    path = put(tmp_path / "archive.gz", packed)
    text = faults(path, idx.check, idx.read)
    found = re.search(r"byte (\d+) of the compressed file", text)
    assert found
    assert int(found[1]) <= len(packed)
    assert "damaged gzip stream" in text
    assert reason in text
    assert "download it again" in text


def stored_gz(data: bytes, size: int) -> bytearray:
    """Return `data` as gzip by hand: after the 10 bytes of its header, blocks that store `size` bytes behind 5."""
    packed = bytearray(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    for start in range(0, len(data), size):
        block = data[start : start + size]
        packed += struct.pack("<BHH", start + size >= len(data), len(block), len(block) ^ 0xFFFF) + block
    return packed + struct.pack("<II", zlib.crc32(data), len(data))


def test_where_gzip_damage_lies(tmp_path: Path) -> None:
    packed = stored_gz(noise(300_000), 10_000)
    assert idx.check(put(tmp_path / "archive.gz", packed)).rows == 300_000
    fault_at = 10 + 17 * 10_005 + 3
    # A block says its length twice; here the two differ.
    packed[fault_at] ^= 1
    text = fault(put(tmp_path / "archive.gz", packed), idx.check)
    found = re.search(r"byte (\d+) of the compressed file", text)
    assert found
    assert fault_at <= int(found[1]) <= fault_at + 20_000
    cut = fault(put(tmp_path / "cut.gz", packed[:150_000]), idx.check)
    assert "byte 150000 of the compressed file" in cut


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "missing", idx.read)
    assert "directory" in fault(tmp_path, idx.read_header)
    assert "Not a directory" in fault(put(tmp_path / "file", GOLDEN) / "below", idx.check)
    assert "File name too long" in fault(tmp_path / ("a" * 300), idx.check)
    os.mkfifo(tmp_path / "pipe")
    assert "device" in fault(tmp_path / "pipe", idx.check)
    assert "No such file" in fault(tmp_path / "missing", lambda path: idx.inflate(path, tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    path.chmod(0)
    root = os.geteuid() == 0  # who may read every file, and so becomes nobody for a moment
    if root:
        os.seteuid(65534)
    try:
        assert "Permission denied" in fault(path, idx.read)
    finally:
        if root:
            os.seteuid(0)


def test_errors_are_one_line_whatever_the_name(tmp_path: Path) -> None:
    for name in ("two\nlines", os.fsdecode(b"not\xffutf-8")):
        with pytest.raises(InputError) as caught:
            idx.read(put(tmp_path / name, b"PNG"))
        assert str(caught.value).isprintable()
        assert caught.value.exit_code == 2


def test_inflate_onto_itself_is_refused_and_harmless(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    (tmp_path / "link").symlink_to(path)
    for destination in (path, tmp_path / "link"):
        with pytest.raises(ValueError, match="onto itself"):
            idx.inflate(path, destination)
    assert path.read_bytes() == GOLDEN


def test_inflate_reports_a_destination_that_cannot_be_written_as_such(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    with pytest.raises(OSError, match="No such file"):
        idx.inflate(path, tmp_path / "missing" / "plain")


def test_read_rows_of_a_file_that_changed(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    known = idx.check(path)
    put(path, GOLDEN[:-1])
    assert idx.read_rows(path, known, 0, 1).tolist() == GOLDEN_ROWS[:1]
    text = fault(path, lambda path: idx.read_rows(path, known, 1, 2))
    assert "byte 27: found the end of the data, expected 28 bytes" in text
    for data in (header(0x08, 2, 3, 2) + GOLDEN[16:], gzip.compress(GOLDEN), b"", GOLDEN[:9]):
        text = fault(put(path, data), lambda path: idx.read_rows(path, known, 0, 1))
        assert "expected a plain IDX file of 2 x 2 x 3 of uint8" in text


# --- pairs


def describe(dtype: str, *shape: int) -> idx.Header:
    return idx.Header(np.dtype(dtype), shape)


@pytest.mark.parametrize("images", [describe("u1", 5, 28, 28), describe("u1", 5, 32, 32, 3), describe(">f4", 5, 784)])
@pytest.mark.parametrize("labels", [describe("u1", 5), describe("i1", 5), describe(">i4", 5)])
def test_good_pairs(images: idx.Header, labels: idx.Header) -> None:
    idx.check_pair(Path("images"), images, Path("labels"), labels)


@pytest.mark.parametrize(
    ("images", "labels", "at_fault", "offset", "words"),
    [
        (describe("u1", 60000, 28, 28), describe("u1", 10000), "l.gz", 4, ["10000 labels", "60000"]),
        (describe("u1", 5), describe("u1", 5, 2, 2), "i.gz", 3, ["5 of uint8", "idx3 or idx4", "in this order"]),
        (describe("u1", 5, 2, 2), describe("u1", 5, 2, 2), "l.gz", 3, ["5 x 2 x 2 of uint8", "idx1"]),
        (describe("u1", 5, 2, 2), describe(">f4", 5), "l.gz", 2, ["float32", "integer"]),
    ],
)
def test_bad_pairs(images: idx.Header, labels: idx.Header, at_fault: str, offset: int, words: list[str]) -> None:
    with pytest.raises(idx.IdxError) as caught:
        idx.check_pair(Path("i.gz"), images, Path("l.gz"), labels)
    text = str(caught.value)
    assert text.startswith(f"{at_fault}: byte {offset} of the IDX header: found ")
    for word in ["i.gz and l.gz", *words]:
        assert word in text
    assert "\n" not in text
