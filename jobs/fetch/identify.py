"""Identify an archive of the catalog by its checksum."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.archive import Archive, Role, is_gzip
from jobs.fetch.catalog import CATALOG
from jobs.fetch.data_set import KnownArchive
from jobs.fetch.names import unreadable
from jobs.fetch.sniff import sniff
from jobs.files import digest_file, sha256_file

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Identity:
    """What an archive is: a data set's archive of this role."""

    data_set: str
    role: Role
    archive: KnownArchive

    def __str__(self) -> str:
        return f"{self.data_set}'s {self.archive.name}"


def mismatch(path: Path, archive: KnownArchive) -> str | None:
    """Return how a file's checksum differs from the archive's, or None if the file is that archive.

    A .gz that was compressed again is the archive if the MD5 of its content is known and equal. Without any known
    checksum, the shape decides.
    """
    if not archive.has_checksum:
        header = sniff(path)
        promised = header.shape if header else "no IDX header"
        return None if not archive.shape or promised == archive.shape else f"found {promised}, expected {archive.shape}"
    known = (archive.gz_md5, archive.md5)
    if any(digest in known for digest in _digests(path)):
        return None
    in_gz = archive.gz_md5 and (is_gzip(path) or not archive.md5)
    expected = f"{archive.gz_md5} of a .gz" if in_gz else archive.md5
    return f"found MD5 {digest_file(path, 'md5')}, expected {expected}"


def is_checkable(path: Path, archive: KnownArchive) -> bool:
    """Return whether the catalog knows a checksum for this file's form, .gz or plain."""
    return archive.md5 is not None or (archive.gz_md5 is not None and is_gzip(path))


def identify(path: Path) -> Identity | None:
    """Return which archive of the catalog a file is, or None for one that it does not list.

    Only a file whose header promises the shape of a known archive is read.
    """
    header = sniff(path)
    known = [
        Identity(data_set.name, role, archive)
        for data_set in CATALOG.values()
        for role, archive in data_set.archives.items()
        if archive.has_checksum and header and archive.shape in ((), header.shape)
    ]
    for digest in _digests(path) if known else ():
        for identity in known:
            if digest in (identity.archive.gz_md5, identity.archive.md5):
                return identity
    return None


def record(role: Role, path: Path) -> tuple[Archive, Identity | None]:
    """Return an archive as fetch records it, and what the catalog knows it as. Raises InputError if unreadable."""
    try:
        identity = identify(path)
        archive = Archive(
            role=role,
            path=path,
            bytes=path.stat().st_size,
            sha256=sha256_file(path),
            known=identity.data_set if identity else None,
        )
    except OSError as error:
        raise unreadable(path, error) from error
    return archive, identity


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
