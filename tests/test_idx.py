"""The IDX reader and writer: the format itself, and every fault that a download can have."""

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


def test_header_sizes_follow_from_shape_and_type() -> None:
    images = idx.Header(np.dtype(">i2"), (7, 2, 3, 5))
    assert (images.rows, images.row_shape, images.row_bytes, images.header_bytes) == (7, (2, 3, 5), 60, 20)
    assert (images.data_bytes, images.file_bytes) == (420, 440)
    labels = idx.Header(np.dtype("u1"), (7,))
    assert (labels.rows, labels.row_shape, labels.row_bytes, labels.file_bytes) == (7, (), 1, 15)


def test_sizes_beyond_64_bits_do_not_overflow() -> None:
    assert idx.Header(np.dtype(">f8"), (2**32 - 1,) * 4).data_bytes == 8 * (2**32 - 1) ** 4


@settings(max_examples=100, deadline=None)
@given(array=arrays(), compress=st.booleans())
def test_any_array_round_trips(folder: Path, array: NDArray[Any], compress: bool) -> None:
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
def test_read_rows_equals_a_slice_of_the_array(folder: Path, array: NDArray[Any], data: st.DataObject) -> None:
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


def test_an_array_of_many_blocks_round_trips(tmp_path: Path) -> None:
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
def test_read_rows_refuses_a_range_outside_the_archive(tmp_path: Path, start: int, stop: int) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    with pytest.raises(ValueError, match=f"rows {start} to {stop}.*0 to 2"):
        idx.read_rows(path, idx.read_header(path), start, stop)


def test_an_archive_without_rows_is_read_as_an_empty_array(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", header(0x0C, 0, 28, 28))
    assert idx.read(path).shape == (0, 28, 28)
    assert idx.read_rows(path, idx.check(path), 0, 0).shape == (0, 28, 28)


def test_gzip_may_have_several_members_and_zero_padding(tmp_path: Path) -> None:
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
        (b"\x89PNG and more", 0, ["89 50", "00 00", "check that this is an IDX file"]),
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
def test_malformed_bytes_are_refused_with_their_position(
    tmp_path: Path, pack: Callable[[bytes], bytes], data: bytes, offset: int, words: list[str]
) -> None:
    path = put(tmp_path / "archive", pack(data))
    text = faults(path, idx.check, idx.read)
    position = f"byte {offset} of the inflated data:" if pack is gzip.compress else f"byte {offset}:"
    for word in [position, *words]:
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


def test_gzip_too_short_for_its_header_is_refused_before_inflating(tmp_path: Path) -> None:
    path = put(tmp_path / "archive.gz", gzip.compress(header(0x08, 2**32 - 1, 1024) + bytes(100)))
    text = faults(path, *READERS)
    size = path.stat().st_size
    for word in ["byte 4 of the inflated data", str(12 + 1024 * (2**32 - 1)), str(size * 1032), f"{size} compressed"]:
        assert word in text


def test_the_densest_possible_gzip_is_accepted(tmp_path: Path) -> None:
    data = header(0x08, 4 * MB) + bytes(4 * MB)
    path = put(tmp_path / "archive.gz", gzip.compress(data, compresslevel=9))
    assert len(data) / path.stat().st_size > 1000
    assert idx.check(path) == idx.read_header(path)
    assert not idx.read(path).any()


@pytest.mark.parametrize("extra", [b"z", b"z" * 3 * MB])
def test_gzip_longer_than_its_header_promises_is_refused(tmp_path: Path, extra: bytes) -> None:
    path = put(tmp_path / "archive.gz", gzip.compress(GOLDEN + extra, compresslevel=1))
    assert idx.read_header(path).shape == (2, 2, 3)
    text = faults(path, idx.check, idx.read)
    assert "byte 28 of the inflated data: found more data, expected the end after the 28 bytes" in text


def noise(rows: int) -> bytes:
    """Return an archive that gzip cannot compress, so that its deflate stream spans many buffers."""
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
def test_damaged_gzip_is_refused_with_the_reason(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    packed = damage(gzip.compress(noise(300_000)))
    path = put(tmp_path / "archive.gz", packed)
    text = faults(path, idx.check, idx.read)
    position = re.search(r"byte (\d+) of the compressed file", text)
    assert position
    assert int(position[1]) <= len(packed)
    assert "damaged gzip stream" in text
    assert reason in text
    assert "download it again" in text


def stored_gz(data: bytes, size: int) -> bytearray:
    """Return `data` as hand-made gzip: a 10-byte header, then stored blocks of a 5-byte header and `size` bytes."""
    packed = bytearray(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    for start in range(0, len(data), size):
        block = data[start : start + size]
        packed += struct.pack("<BHH", start + size >= len(data), len(block), len(block) ^ 0xFFFF) + block
    return packed + struct.pack("<II", zlib.crc32(data), len(data))


def test_gzip_damage_is_located_to_within_a_buffer(tmp_path: Path) -> None:
    packed = stored_gz(noise(300_000), 10_000)
    assert idx.check(put(tmp_path / "archive.gz", packed)).rows == 300_000
    fault_at = 10 + 17 * 10_005 + 3
    # A block has its length twice; here the two differ.
    packed[fault_at] ^= 1
    text = fault(put(tmp_path / "archive.gz", packed), idx.check)
    position = re.search(r"byte (\d+) of the compressed file", text)
    assert position
    assert fault_at <= int(position[1]) <= fault_at + 20_000
    cut = fault(put(tmp_path / "cut.gz", packed[:150_000]), idx.check)
    assert "byte 150000 of the compressed file" in cut


def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "missing", idx.read)
    assert "a folder" in fault(tmp_path, idx.read_header)
    assert "Not a directory" in fault(put(tmp_path / "file", GOLDEN) / "below", idx.check)
    assert "File name too long" in fault(tmp_path / ("a" * 300), idx.check)
    os.mkfifo(tmp_path / "pipe")
    assert "device" in fault(tmp_path / "pipe", idx.check)
    assert "No such file" in fault(tmp_path / "missing", lambda path: idx.inflate(path, tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    path.chmod(0)
    root = os.geteuid() == 0  # root may read every file, so the test becomes nobody for a moment
    if root:
        os.seteuid(65534)
    try:
        assert "Permission denied" in fault(path, idx.read)
    finally:
        if root:
            os.seteuid(0)


def test_errors_are_one_line_for_any_file_name(tmp_path: Path) -> None:
    for name in ("two\nlines", os.fsdecode(b"not\xffutf-8")):
        with pytest.raises(InputError) as caught:
            idx.read(put(tmp_path / name, b"PNG"))
        assert str(caught.value).isprintable()
        assert caught.value.exit_code == 2


def test_inflating_a_file_onto_itself_is_refused_and_harmless(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    (tmp_path / "link").symlink_to(path)
    for destination in (path, tmp_path / "link"):
        with pytest.raises(ValueError, match="onto itself"):
            idx.inflate(path, destination)
    assert path.read_bytes() == GOLDEN


def test_inflate_raises_oserror_for_an_unwritable_destination(tmp_path: Path) -> None:
    path = put(tmp_path / "archive", GOLDEN)
    with pytest.raises(OSError, match="No such file"):
        idx.inflate(path, tmp_path / "missing" / "plain")


def test_read_rows_refuses_a_file_that_changed(tmp_path: Path) -> None:
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
def test_matching_images_and_labels_make_a_pair(images: idx.Header, labels: idx.Header) -> None:
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
def test_a_mismatched_pair_is_refused_with_the_faulty_file(
    images: idx.Header, labels: idx.Header, at_fault: str, offset: int, words: list[str]
) -> None:
    with pytest.raises(idx.IdxError) as caught:
        idx.check_pair(Path("i.gz"), images, Path("l.gz"), labels)
    text = str(caught.value)
    assert text.startswith(f"{at_fault}: byte {offset} of the IDX header: found ")
    for word in ["i.gz and l.gz", *words]:
        assert word in text
    assert "\n" not in text
