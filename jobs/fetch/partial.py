"""What has arrived of a download: a file that the next try takes up, and that is nobody else's."""

import hashlib
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from jobs.fetch.source import SourceError

_BLOCK = 1 << 20


class PartialFile(AbstractContextManager["PartialFile"]):
    """The file at `path`, open for as long as this lives; an empty one does not stay.

    In a folder that others may write to, anything may lie there. Only this user's own plain file with no other name is
    taken up; a link, another user's file or a second name of one is removed, and never written through.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _open_own(path)
        if self._descriptor < 0:
            path.unlink(missing_ok=True)
            # Fails where somebody is quick enough to put something there again.
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
        """How many bytes have arrived."""
        return os.fstat(self._descriptor).st_size

    def cut(self, length: int) -> None:
        """Keep the first bytes alone; what is written next follows them."""
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, length, os.SEEK_SET)

    def write(self, block: bytes) -> None:
        """Add bytes at the end."""
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def md5(self) -> str:
        """Return the MD5 of all that has arrived, as hex digits."""
        digest = hashlib.md5(usedforsecurity=False)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, _BLOCK):
            digest.update(block)
        return digest.hexdigest()

    def finish(self, target: Path) -> None:
        """Flush it to disk and give it its name; raise SourceError where its place was taken meanwhile."""
        os.fsync(self._descriptor)
        if not self._is_in_place():
            raise SourceError(f"{self._path} was replaced while it was written")
        self._path.rename(target)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


def _open_own(path: Path) -> int:
    """Return a descriptor of a file that may be taken up; −1 where there is none."""
    try:
        # Not blocking: a named pipe without a reader would make it wait for ever.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    return -1
