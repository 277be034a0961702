"""Archives of several gzip members: inflated in ranges to the same bytes, or refused with the same words."""

import gzip
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.prepare import idx, members
from jobs.prepare.archives import inflate
from jobs.prepare.members import inflate_range, ranges
from tests.conftest import describe

# Bytes that look like the start of a member; stored without compression, they are in the compressed file, too.
DECOY = b"\x1f\x8b\x08\x00" + bytes(6)


def packed(pieces: list[bytes], level: int) -> bytes:
    return b"".join(gzip.compress(piece, level, mtime=0) for piece in pieces)


@given(
    pieces=st.lists(st.binary(max_size=200) | st.just(DECOY * 3) | st.just(gzip.compress(b"decoy")), max_size=12),
    level=st.sampled_from([0, 6]),
    padding=st.integers(0, 3),
    size=st.integers(1, 100),
)
@settings(deadline=None)
def test_ranges_give_the_bytes_of_the_stream_or_say_that_they_do_not(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], level: int, padding: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("members")
    path, plain = folder / "a.gz", b"".join(pieces)
    path.write_bytes(packed(pieces, level) + bytes(padding if pieces else 0))
    with patch.object(members, "_RANGE_BYTES", size):
        cut = ranges(path, folder / "a", lambda: len(plain))
    assert [each.start for each in cut[1:]] == [each.stop for each in cut[:-1]]
    sizes = [inflate_range(each) for each in cut]
    if cut and min(sizes) >= 0:
        assert b"".join(each.target.read_bytes() for each in cut) == plain
        assert sum(sizes) == len(plain)


def test_an_archive_of_many_members_is_inflated_in_ranges(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (400, 28, 28), np.uint8)
    idx.write(tmp_path / "plain", array)
    plain = (tmp_path / "plain").read_bytes()
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(packed([plain[start : start + 5000] for start in range(0, len(plain), 5000)], 1))
    archive = describe("train_images", path)
    one_stream = patch("jobs.prepare.archives.idx.inflate", side_effect=AssertionError)
    with patch.object(members, "_RANGE_BYTES", 40_000), one_stream:
        assert len(ranges(path, tmp_path / "x", lambda: len(plain))) > 5
        (result,) = inflate({"images": archive}, tmp_path).values()
    assert result.read_bytes() == plain
    assert {each.name for each in tmp_path.iterdir()} == {"plain", path.name, "images"}


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flipped, "found a damaged gzip stream"),
        (lambda data: data[:-9], "found a damaged gzip stream"),
        (lambda data: data + gzip.compress(b"more"), "found more data"),
    ],
)
def test_faulty_members_are_refused_as_in_one_stream(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    idx.write(tmp_path / "plain", array)
    plain = (tmp_path / "plain").read_bytes()
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(packed([plain[start : start + 3000] for start in range(0, len(plain), 3000)], 1)))
    with patch.object(members, "_RANGE_BYTES", 9000), pytest.raises(InputError, match=words):
        inflate({"images": describe("train_images", path)}, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"plain", path.name}
