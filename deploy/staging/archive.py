"""The environment as tar files on the shared file system: one of the packages, one of this project's code.

A tar file holds regular files alone. It is named after what it holds: the packages' versions and
checksums, as their installer recorded them (RECORD), or the content of our code. So a changed package makes another
file, but a package that was edited in place does not. `needed` decides what goes in.
"""

import hashlib
import os
import sysconfig
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.staging.contents import needed
from jobs.errors import InputError
from jobs.files import remove_unfinished, sha256_file, write_atomic
from jobs.installation import PACKAGES
from jobs.lease import Lease
from jobs.logs import log

_UNUSED_SECONDS = 7 * 24 * 3600.0  # a tar file that no job has used for a week is removed when another is made
_BLOCK = 1 << 20
_FORMAT = b"1"  # part of each name: changes with the rule of what goes in


@dataclass(frozen=True)
class Archive:
    """A tar file and the SHA-256 of its bytes, which whoever unpacks it checks."""

    path: str
    sha256: str


def packages_folder() -> Path:
    """Return the folder that this Python's packages are installed in."""
    return Path(sysconfig.get_path("purelib"))


def archives(folder: Path, packages: Path) -> tuple[Archive, ...]:
    """Return the tar files of an environment; make those that `folder` lacks.

    `folder`: on the file system that all nodes share; it becomes private. `packages`: where the packages are installed.
    Raises OSError, e.g. on a full disk.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    code = Path(__file__).parents[2]
    made = [_archive(folder, "packages", _packages_key(packages), packages, list(_installed(packages, code)))]
    if code != packages:  # installed from a checkout, which stays where it is
        files = [path for name in PACKAGES for path in needed(code / name)]
        made.append(_archive(folder, "code", _code_key(code, files), code, files))
    return tuple(made)


def remove_damaged(made: Sequence[Archive]) -> list[str]:
    """Remove those tar files whose bytes are not those of their checksum; return their names.

    The next job packs them again. Reads each file whole, so it is for jobs whose nodes could not unpack them.
    """
    removed = []
    for path in (Path(each.path) for each in made):
        with suppress(InputError, OSError), _lease(path):
            checksum = path.with_suffix(".sha256")
            if sha256_file(path) != checksum.read_text(encoding="utf-8").strip():
                path.unlink()
                checksum.unlink()
                removed.append(path.name)
    return removed


def _lease(path: Path) -> Lease:
    return Lease(path.with_name(f".{path.name}.json"), f"environment {path}", waits=True)


def _archive(folder: Path, what: str, key: str, root: Path, files: Sequence[Path]) -> Archive:
    path = folder / f"{what}-{key}.tar"
    with _lease(path):
        checksum = path.with_suffix(".sha256")
        if path.exists() and checksum.exists():
            os.utime(path)
            return Archive(str(path), checksum.read_text(encoding="utf-8").strip())
        begin = time.monotonic()
        _remove_unused(folder)
        remove_unfinished(folder, path.name)  # gigabytes; only the owner of the lease packs this file
        write_atomic(path, lambda temporary: _write(temporary, root, files))
        archive = Archive(str(path), sha256_file(path))
        write_atomic(checksum, lambda temporary: _write_private(temporary, archive.sha256))
        size, seconds = path.stat().st_size / 1e6, time.monotonic() - begin
        log.info(
            "staging: packed %s: %s files, %s MB, in %.0f s", path.name, f"{len(files):,}", f"{size:,.0f}", seconds
        )
        return archive


def _installed(packages: Path, code: Path) -> Iterator[Path]:
    """Yield the files of the installed packages, but not the file that leads to a checkout."""
    for path in needed(packages):
        if not (path.suffix == ".pth" and str(code) in path.read_text(encoding="utf-8", errors="replace").split("\n")):
            yield path


def _packages_key(packages: Path) -> str:
    digest = hashlib.sha256(_FORMAT)
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        digest.update(record.parent.name.encode() + b"\0" + record.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _code_key(code: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(_FORMAT)
    for path in files:
        if path.suffix != ".pyc":  # it may come later
            digest.update(str(path.relative_to(code)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _write(path: Path, root: Path, files: Sequence[Path]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    # dereference: a file of several names, as uv's cache makes them, comes whole, and so does what a link leads to.
    with (
        os.fdopen(descriptor, "wb") as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT, dereference=True, bufsize=_BLOCK) as tar,
    ):
        for each in files:
            tar.add(each, str(each.relative_to(root)), recursive=False)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")


def _remove_unused(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
            path.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)
