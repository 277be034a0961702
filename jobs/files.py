"""Files that appear whole or not at all, and their checksums."""

import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.errors import InputError, one_line

_BLOCK = 1 << 20
_SEAL = "sha256"
_UNFINISHED = ".tmp-"
_DEEPEST = 50  # levels of nesting in a JSON file; ours have at most ten


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits; reads in blocks of 1 MiB."""
    return digest_file(path, "sha256")


def digest_file(path: Path, algorithm: str) -> str:
    """Return the digest of a file's bytes as hex digits. `algorithm`: a name known to hashlib, e.g. "md5"."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class HashedFile(io.FileIO):
    """A file that is read from its start and updates a hash with each byte read."""

    def __init__(self, path: Path, digest: "hashlib._Hash") -> None:
        super().__init__(path)
        self._digest = digest

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; return the number of bytes read, 0 at the end of the file. BufferedReader calls this."""
        count = super().readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        return count


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no white space)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with one more key, the SHA-256 of all others, which reveals accidental changes."""
    return value | {_SEAL: sha256_json(json.loads(json.dumps(value)))}


def take_seal(value: dict[str, Any]) -> bool:
    """Remove the seal from a JSON object; return whether it had one that fits."""
    return bool(value.pop(_SEAL, None) == sha256_json(value))


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it to `path`.

    A reader of `path` sees the old file or the new one, also after a power cut. If `write` raises, nothing is left.
    A full disk raises an OSError that names `path`, whatever `write` raised.
    """
    # The suffix stays last: Keras and others choose the format by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}{_UNFINISHED}{path.name}")
    try:
        with naming_full_disk(path):
            write(temporary)
            sync(temporary)
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def unfinished(folder: Path, name: str = "*") -> list[Path]:
    """Return the files in a folder that `write_atomic` is writing, or that a killed process left behind.

    `name`: of the finished file, or a pattern.
    """
    return list(folder.glob(f".*{_UNFINISHED}{name}"))


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes were writing. Only for a caller that knows that nobody is writing such files."""
    for path in unfinished(folder, name):
        path.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn any exception that a full disk causes into an OSError that names the file."""
    try:
        yield
    except Exception as error:
        number = full_disk(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def full_disk(error: BaseException | None) -> int | None:
    """Return ENOSPC or EDQUOT if a full disk or quota caused an exception, else None.

    Libraries in C++ or Rust raise exceptions of their own, with the system's message somewhere in the text.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value to `path` atomically, indented, with a newline at the end."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to `path` atomically, as UTF-8."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to `path` atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomic(path, write)


def sync(path: Path) -> None:
    """Flush a file's or a directory's contents to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises InputError, whose message ends with `fix`, if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file; fix: {fix}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({one_line(error)}); fix: {fix}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: found {type(value).__name__}, expected a JSON object; fix: {fix}")
    if _deeper_than(_DEEPEST, value):
        raise InputError(f"{path}: found more than {_DEEPEST} levels of nesting, expected a few; fix: {fix}")
    return value


def _deeper_than(levels: int, value: Any) -> bool:
    """Return whether a JSON value is nested deeper: Python can read more levels than it can compare or write."""
    if not isinstance(value, dict | list):
        return False
    below = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, each) for each in below)
