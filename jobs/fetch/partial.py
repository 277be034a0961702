"""The unfinished file of a download, which the next try resumes. It is never another user's file."""

import hashlib
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from jobs.fetch.source import SourceError
from jobs.files import naming_full_disk

_BLOCK = 1 << 20


class PartialFile(AbstractContextManager["PartialFile"]):
    """A context manager that holds the file at `path` open. An empty file is removed at the end.

    A full disk raises an OSError that names the file.

    Other users may have put anything there if they may write to the folder. So only a regular file with one name, which
    this user owns, is resumed. A link, another user's file or a hard link is removed and never written through.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _open_own(path)
        if self._descriptor < 0:
            path.unlink(missing_ok=True)
            # Fails if someone creates it again at this moment.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.length == 0 and self._is_in_place():
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    @property
    def length(self) -> int:
        """The number of bytes that have arrived."""
        return os.fstat(self._descriptor).st_size

    def cut(self, length: int) -> None:
        """Truncate to the first `length` bytes; the next write follows them."""
        with naming_full_disk(self._path):
            os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, length, os.SEEK_SET)

    def write(self, block: bytes) -> None:
        """Append bytes."""
        view = memoryview(block)
        with naming_full_disk(self._path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def md5(self) -> str:
        """Return the MD5 of the file as hex digits."""
        digest = hashlib.md5(usedforsecurity=False)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, _BLOCK):
            digest.update(block)
        return digest.hexdigest()

    def finish(self, target: Path) -> None:
        """Flush the file to disk and rename it to `target`; raise SourceError if another file replaced it."""
        with naming_full_disk(self._path):
            os.fsync(self._descriptor)  # where a network file system may report it
        if not self._is_in_place():
            raise SourceError(f"{self._path} was replaced while it was written")
        self._path.rename(target)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


def _open_own(path: Path) -> int:
    """Return a descriptor of a file that may be resumed; −1 if there is none."""
    try:
        # Non-blocking: opening a named pipe without a reader would wait forever.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    return -1
