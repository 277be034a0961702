"""The files of a folder, a tar or a zip archive, one after another. Nothing in an archive is trusted.

Archives are read in memory, file by file: nothing is unpacked, so no path in one can lead outside. Links, devices and
paths that would leave the archive are reported, like files that are too large. Hidden files and what operating systems
leave behind are not files of the data set.
"""

import gzip
import lzma
import math
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.archive import is_gzip
from jobs.errors import InputError, one_line

MOST_BYTES = 64 << 20  # of one picture file
MOST_EXPANSION = 200  # of a .tar.gz; pictures are compressed already, and tar adds at most some zeros
_ALLOWANCE = 64 << 20  # bytes that any .tar.gz may inflate to
_BLOCK = 1 << 20
_MOST_HEADER = 1 << 20  # bytes of a tar header, such as a long name, which tarfile reads whole
_NOT_DATA = {"thumbs.db", "desktop.ini", "__macosx"}
_MOST_EMPTY_READS = 1000  # at the end of a tar; one that promises more would be read for ever
_DAMAGE = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError, zlib.error, lzma.LZMAError)  # of a zip
_TAR_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TAR_SUFFIXES, ".zip")


@dataclass(frozen=True)
class Entry:
    """A file of a source: its path, with `/` between folders, and its bytes, or why it cannot be used."""

    path: str
    data: bytes = b""
    fault: str = ""


def entries(source: Path, most: int = MOST_BYTES) -> Iterator[Entry]:
    """Yield the files of a folder, a .tar, .tar.gz, .tgz or .zip. Those of a folder come sorted by path.

    `most`: bytes of the largest file that is read. Raises InputError for an archive that is damaged.
    """
    if source.is_dir():
        return _in_folder(source, most)
    return _in_zip(source, most) if is_zip(source) else _in_tar(source, most)


def is_zip(source: Path) -> bool:
    """Return whether a source is a zip archive by its name."""
    return source.name.lower().endswith(".zip")


def count(source: Path) -> int | None:
    """Return the number of files of a folder or a zip archive; None for a tar, which only shows it in the end."""
    if source.is_dir():
        return sum(1 for _ in _paths(source))
    if is_zip(source):
        with _opened_zip(source) as archive:
            return sum(1 for member in archive.infolist() if not member.is_dir() and is_data(member.filename))
    return None


def is_data(path: str) -> bool:
    """Return whether a path may be a file of the data set: neither hidden nor left by an operating system."""
    return not any(
        each.lower() in _NOT_DATA or (each[:1] == "." and each not in (".", "..")) for each in path.split("/")
    )


def _paths(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, sorted within each folder."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); fix: give a folder you may read"
        ) from error

    for path, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [each for each in folders if (Path(path) / each).is_symlink()]
        for name in sorted([*files, *links]):  # os.walk does not enter links to folders
            relative = (Path(path) / name).relative_to(folder).as_posix()
            if is_data(relative):
                yield relative


def _in_folder(folder: Path, most: int) -> Iterator[Entry]:
    for path in _paths(folder):
        file = folder / path
        try:
            mode = file.stat()
            if stat.S_ISDIR(mode.st_mode):
                yield Entry(path, fault="a link to a folder")
            elif not stat.S_ISREG(mode.st_mode):
                yield Entry(path, fault="not a regular file")
            elif mode.st_size > most:
                yield Entry(path, fault=_too_large(mode.st_size, most))
            else:
                yield Entry(path, file.read_bytes())
        except OSError as error:
            yield Entry(path, fault=f"cannot be read ({error.strerror})")


def _in_zip(source: Path, most: int) -> Iterator[Entry]:
    with _opened_zip(source) as archive:
        for member in archive.infolist():
            path = _tidy(member.filename)
            if member.is_dir() or not is_data(path):
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            fault = "a link" if stat.S_ISLNK(kind) else _escape(member.filename)
            if fault or member.file_size > most:
                yield Entry(path, fault=fault or _too_large(member.file_size, most))
                continue
            try:
                with archive.open(member) as file:
                    data = file.read(member.file_size)  # no more, whatever the stream holds
            except _DAMAGE as error:
                yield Entry(path, fault=f"damaged in the archive ({one_line(error) or type(error).__name__})")
                continue
            yield Entry(path, data)


def _opened_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except _DAMAGE as error:
        raise _damaged(source, error) from error


def _in_tar(source: Path, most: int) -> Iterator[Entry]:
    try:
        file: Any = _tar_bytes(source)
        with closing(file), tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
            for member in archive:
                if not member.isdir() and is_data(member.name):
                    yield _tar_entry(archive, member, most)
                archive.members.clear()  # type: ignore[attr-defined] # or all members stay in memory
            file.finish()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise _damaged(source, error) from error


def _tar_entry(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> Entry:
    fault = _escape(member.name)
    if member.issym() or member.islnk():
        fault = "a link"
    elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        fault = "not a regular file"
    elif member.size > most:
        fault = _too_large(member.size, most)
    file = None if fault else archive.extractfile(member)
    return Entry(_tidy(member.name), file.read() if file else b"", fault)


class _Member(tarfile.TarInfo):
    """A member of a tar, whose own headers are small."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Return the member that a header block describes. Raises ReadError for a long name or comment that is huge."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _TAR_HEADERS and member.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {member.size} bytes, expected at most {_MOST_HEADER}")
        return member


class _TarBytes:
    """The bytes of a tar, inflated, at most `most` of them. It remembers its last bytes: a tar ends with zeros."""

    def __init__(self, file: Any, most: float) -> None:
        self._file, self._left, self._tail = file, most, b""
        self._empty_reads = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises ReadError beyond the limit, and long after the end."""
        data: bytes = self._file.read(size)
        self._empty_reads += not data
        if self._empty_reads > _MOST_EMPTY_READS:
            raise tarfile.ReadError("it ends within a file")
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError(f"it inflates more than {MOST_EXPANSION}-fold, which pictures do not")
        self._tail = (self._tail + data)[-tarfile.BLOCKSIZE :]
        return data

    def finish(self) -> None:
        """Read to the end, which verifies gzip's checksum. Raises ReadError for a tar cut off between two files."""
        if any(self._tail) or len(self._tail) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends without tar's end mark")
        while self.read(_BLOCK):
            pass

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _tar_bytes(source: Path) -> _TarBytes:
    if is_gzip(source):
        return _TarBytes(gzip.GzipFile(source), max(_ALLOWANCE, source.stat().st_size * MOST_EXPANSION))
    return _TarBytes(source.open("rb"), math.inf)


def _tidy(path: str) -> str:
    """Return a path of an archive without empty folders and `.`."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _escape(path: str) -> str:
    """Return the fault of a path that would leave the archive if it were unpacked; empty if it would not."""
    parts = path.replace("\\", "/").split("/")
    return "its path leaves the archive" if ".." in parts or path[:1] in ("/", "\\") or ":" in parts[0] else ""


def _too_large(size: int, most: int) -> str:
    return f"found {size:,} bytes, expected at most {most:,}"


def _damaged(source: Path, error: BaseException) -> InputError:
    reason = one_line(error) or type(error).__name__
    return InputError(f"{source}: found a damaged archive ({reason}), expected a tar or zip; fix: get it again")
