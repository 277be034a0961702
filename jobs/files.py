"""Files that are whole or not there at all, and their checksums."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits; reads in blocks of 1 MiB."""
    return digest_file(path, "sha256")


def digest_file(path: Path, algorithm: str) -> str:
    """Return the digest of a file's bytes as hex digits. `algorithm`: a name hashlib knows, e.g. "md5"."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no white space)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it to `path`.

    Whoever reads `path` sees the old file or the new one, also after a power cut. If `write` raises, nothing is left.
    """
    # The suffix stays last: Keras and others choose a format by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp-{path.name}")
    try:
        write(temporary)
        sync(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value to `path`, atomically, indented, ending with a newline."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomic(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Flush a file's or a directory's contents to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
