"""Identify an archive of the catalog by its checksum."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from jobs.archive import is_gzip
from jobs.fetch.catalog import CATALOG, KnownArchive
from jobs.files import digest_file

_BLOCK = 1 << 20


def mismatch(path: Path, archive: KnownArchive) -> str | None:
    """Return how a file's checksum differs from the archive's, or None if the file is that archive.

    A .gz that was compressed again is the archive if the MD5 of its content is known and equal.
    """
    known = (archive.gz_md5, archive.md5)
    if any(digest in known for digest in _digests(path)):
        return None
    expected = archive.md5 if archive.md5 and not is_gzip(path) else f"{archive.gz_md5} of a .gz"
    return f"found MD5 {digest_file(path, 'md5')}, expected {expected}"


def is_checkable(path: Path, archive: KnownArchive) -> bool:
    """Return whether the catalog knows a checksum for this file's form, .gz or plain."""
    return archive.md5 is not None or is_gzip(path)


def identify(path: Path) -> tuple[str, str] | None:
    """Return the names of the data set and the archive in the catalog, or None for a file that it does not list."""
    for digest in _digests(path):
        for data_set in CATALOG.values():
            for archive in data_set.archives.values():
                if digest in (archive.gz_md5, archive.md5):
                    return data_set.name, archive.name
    return None


def _digests(path: Path) -> Iterator[str]:
    """Yield the MD5 of the file, then of its content if it is gzip; the second is computed on demand."""
    yield digest_file(path, "md5")
    if is_gzip(path):
        digest = _content_digest(path)
        if digest:
            yield digest


def _content_digest(path: Path) -> str | None:
    """Return the MD5 of a gzip file's content, or None if it is damaged or longer than any known archive."""
    limit = max(archive.bytes for data_set in CATALOG.values() for archive in data_set.archives.values())
    digest = hashlib.md5(usedforsecurity=False)
    read = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                read += len(block)
                if read > limit:
                    return None
                digest.update(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None
    return digest.hexdigest()
