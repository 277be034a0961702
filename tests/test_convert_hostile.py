"""`idxtrain convert` on archives that nobody vouches for: nothing leaves the target, and memory is bounded."""

import csv
import gzip
import io
import os
import stat
import struct
import tarfile
import tomllib
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from jobs.convert import entries, npz
from jobs.convert.convert import form_of
from jobs.convert.entries import Entry
from jobs.convert.options import Options
from jobs.errors import InputError
from tests.support.pictures import png_file, put_pictures, random_pixels
from tests.test_convert import archive, convert, refusal
from tests.test_convert_tables import hugging_face

PICTURE = png_file(random_pixels(0, 4, 4, 1))
GOOD = ("train/a/1.png", "train/b/1.png")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(PICTURE) if size is None else size
    return info


def hostile_tar(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name in (*GOOD, "../escape.png", "/absolute.png", "train/a/../../../up.png", "C:/windows.png", GOOD[0]):
            packed.addfile(member(name), io.BytesIO(PICTURE))
        for name, kind in (("train/a/sym.png", tarfile.SYMTYPE), ("train/a/hard.png", tarfile.LNKTYPE)):
            packed.addfile(member(name, kind, "/etc/passwd", 0))
        packed.addfile(member("train/a/fifo.png", tarfile.FIFOTYPE, size=0))
        packed.addfile(member("train/a/device.png", tarfile.CHRTYPE, size=0))
    return path


def hostile_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in (*GOOD, "../escape.png", "/absolute.png", "train/a/../../../up.png", "C:/windows.png"):
            packed.writestr(name, PICTURE)
        link = zipfile.ZipInfo("train/a/sym.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("train/a/bomb.png", bytes(entries.MOST_BYTES + 1))
    return path


def listed(path: Path) -> dict[str, str]:
    with path.open() as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_paths_that_escape_and_links_and_devices_in_a_tar_are_listed_and_never_followed(tmp_path: Path) -> None:
    source = hostile_tar(tmp_path / "a.tar.gz")
    refusal(source, tmp_path / "idx")
    assert listed(tmp_path / "idx.skipped.csv") == {
        "../escape.png": "its path leaves the archive",
        "absolute.png": "its path leaves the archive",
        "train/a/../../../up.png": "its path leaves the archive",
        "C:/windows.png": "its path leaves the archive",
        "train/a/1.png": "twice in the archive",
        "train/a/sym.png": "a link",
        "train/a/hard.png": "a link",
        "train/a/fifo.png": "not a regular file",
        "train/a/device.png": "not a regular file",
    }
    folder = convert(source, tmp_path / "idx", skip_bad=True)
    assert len(archive(folder, "train-labels")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "idx"]


def test_paths_that_escape_and_links_and_bombs_in_a_zip_are_listed_and_never_followed(tmp_path: Path) -> None:
    source = hostile_zip(tmp_path / "a.zip")
    refusal(source, tmp_path / "idx")
    reasons = listed(tmp_path / "idx.skipped.csv")
    assert set(reasons.values()) == {
        "its path leaves the archive",
        "a link",
        f"found {entries.MOST_BYTES + 1:,} bytes, expected at most {entries.MOST_BYTES:,}",
    }
    assert len(reasons) == 6
    assert len(archive(convert(source, tmp_path / "idx", skip_bad=True), "train-labels")) == 2


def test_a_zip_that_lies_about_a_size_is_read_only_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/1.png", bytes(3 * entries.MOST_BYTES))
    # The central directory, and the header before the data, now promise 100 bytes.
    data = path.read_bytes().replace(struct.pack("<I", 3 * entries.MOST_BYTES), struct.pack("<I", 100))
    path.write_bytes(data)
    tracemalloc.start()
    found = list(entries.entries(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [entry.path for entry in found] == ["a/1.png"]
    assert found[0].fault
    assert peak < 1 << 20


def test_a_tar_that_inflates_too_far_is_refused_with_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_ALLOWANCE", 4 << 20)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.addfile(member("a/1.png", size=64 << 20), io.BytesIO(bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(InputError, match="inflates more than 200-fold"):
        list(entries.entries(path, 1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_whose_headers_are_huge_is_refused_with_little_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    header = member("x", kind, size=32 << 20).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + bytes(32 << 20))
    tracemalloc.start()
    for read in (entries.entries, form_of):
        with pytest.raises(InputError, match="a header of 33554432 bytes"):
            list(read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("lie", [{"size": "99999999999999999999"}, {"GNU.sparse.map": "x"}], ids=str)
def test_a_tar_that_lies_about_a_size_is_refused(tmp_path: Path, lie: dict[str, str]) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        info = member(GOOD[0])
        info.pax_headers = lie
        packed.addfile(info, io.BytesIO(PICTURE))
    with pytest.raises(InputError, match=r"a.tar: found a damaged archive .*; fix: "):
        list(entries.entries(path))


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_damaged_byte_of_a_zip_is_a_fault_or_a_refusal(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", packing) as packed:
        packed.writestr("a/1.png", PICTURE)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with suppress(InputError):
            list(entries.entries(path))


def test_any_damaged_byte_of_an_npz_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=random_pixels(0, 2, 2, 2), y_train=np.arange(2, dtype=np.uint8))
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with suppress(InputError):
            list(npz.table(path, Options()).blocks)


def packed_tar(path: Path) -> bytes:
    with tarfile.open(path, "w") as packed:
        for name in GOOD:
            packed.addfile(member(name), io.BytesIO(PICTURE))
    return path.read_bytes()


def test_a_tar_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = packed_tar(tmp_path / "a.tar")
    assert len(list(entries.entries(tmp_path / "a.tar"))) == 2
    used = 4 * tarfile.BLOCKSIZE  # two headers, two blocks of data
    for length in range(0, used + 1, 256):
        (tmp_path / "a.tar").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a.tar: found a damaged archive .*; fix: "):
            list(entries.entries(tmp_path / "a.tar"))


def test_a_damaged_tar_gz_is_refused(tmp_path: Path) -> None:
    data = gzip.compress(packed_tar(tmp_path / "a.tar"))
    for damaged in (data[:-8], data[:-9], data[: len(data) // 2], data[:-8] + bytes(8), b"\x1f\x8b", b"no tar"):
        (tmp_path / "a.tgz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a.tgz: found a damaged archive .*; fix: "):
            list(entries.entries(tmp_path / "a.tgz"))


def test_a_damaged_zip_is_refused_or_its_files_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in GOOD:
            packed.writestr(name, PICTURE)
    data = path.read_bytes()
    path.write_bytes(data.replace(PICTURE, PICTURE[:-1] + b"?", 1))
    assert [bool(entry.fault) for entry in entries.entries(path)] == [True, False]
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="found a damaged archive"):
        list(entries.entries(path))


def test_an_encrypted_zip_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a/1.png", PICTURE)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    (entry,) = entries.entries(path)
    assert "encrypted" in entry.fault


def test_a_picture_of_too_many_pixels_is_listed(tmp_path: Path) -> None:
    side = 40_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + PICTURE[33:]
    source = put_pictures(tmp_path / "source", 2, (4, 4, 1))
    (source / "train/cat/bomb.png").write_bytes(bomb)
    refusal(source, tmp_path / "idx")
    assert listed(tmp_path / "idx.skipped.csv") == {"train/cat/bomb.png": "found more than 50,000,000 pixels"}


def test_links_to_folders_pipes_and_unreadable_files_in_a_folder_are_listed(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 1)
    (source / "train/loop").symlink_to(source)
    os.mkfifo(source / "train/cat/pipe.png")
    (source / "train/cat/gone.png").symlink_to("nowhere.png")
    refusal(source, tmp_path / "idx")
    assert listed(tmp_path / "idx.skipped.csv") == {
        "train/loop": "a link to a folder",
        "train/cat/pipe.png": "not a regular file",
        "train/cat/gone.png": "cannot be read (No such file or directory)",
    }


def test_names_cannot_break_the_list_or_the_description(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 1)
    odd = source / "train" / 'a"b\n=c\x7f,\\'
    odd.mkdir()
    (odd / "1.png").write_bytes((source / "train/cat/0.png").read_bytes())
    (odd / "2\n.png").write_bytes(b"?")
    folder = convert(source, tmp_path / "idx", skip_bad=True)
    names = tomllib.loads((folder / "data.toml").read_text())["class_names"]
    assert names == {"0": 'a"b\\n=c\\x7f,\\', "1": "cat", "2": "dog"}
    assert len((folder / "skipped.csv").read_text().splitlines()) == 2


def test_a_source_without_any_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    assert "found no image, expected pictures in folders by class" in refusal(tmp_path / "source", tmp_path / "idx")
    (tmp_path / "source" / "a").mkdir()
    (tmp_path / "source" / "a" / "notes.txt").write_text("none")
    assert "1 unusable file among 1" in refusal(tmp_path / "source", tmp_path / "idx")


def test_files_of_a_folder_come_sorted_and_whole(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 3)
    found = list(entries.entries(source))
    assert [entry.path for entry in found] == sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    assert found[0] == Entry("test/cat/0.png", (source / "test/cat/0.png").read_bytes())


def test_pictures_of_a_table_whose_bytes_are_no_bytes_are_unusable(tmp_path: Path) -> None:
    hugging_face(tmp_path / "t.parquet", [{"bytes": 7, "path": None}], [0])
    assert "no bytes in the table" in refusal(tmp_path / "t.parquet", tmp_path / "idx")
