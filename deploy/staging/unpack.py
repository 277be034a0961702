"""Unpack the environment into a folder, with a Python of its own."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from deploy.staging.archive import Archive
from jobs.errors import InputError
from jobs.files import HashedFile

_BLOCK = 1 << 20


def make_environment(
    folder: Path, python: Path, packages: str, archives: Sequence[Archive], is_over: Callable[[], bool] = lambda: False
) -> None:
    """Make a virtual environment of an interpreter, and unpack tar files into its packages.

    `folder`: must not exist. `packages`: a path below it. `is_over`: stop unpacking. Raises InputError for a damaged
    tar file; OSError.
    """
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(python)
    # With this file beside it, Python finds its library through `home`, and its packages here.
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n", "utf-8")
    for archive in archives:
        _unpack(archive, folder / packages, is_over)


def _unpack(archive: Archive, folder: Path, is_over: Callable[[], bool]) -> None:
    """Unpack a tar file in one reading, which also checks it. Nothing may run from it before this has returned."""
    digest = hashlib.sha256()
    try:
        with io.BufferedReader(HashedFile(Path(archive.path), digest), _BLOCK) as file:
            with tarfile.open(fileobj=file, mode="r|", bufsize=_BLOCK) as tar:
                for member in tar:
                    if is_over():
                        return
                    _extract(tar, member, folder)
            while file.read(_BLOCK):  # what follows the last member
                pass
    except tarfile.TarError as error:
        raise _damaged(archive) from error
    if digest.hexdigest() != archive.sha256:
        raise _damaged(archive)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path, source = PurePosixPath(member.name), tar.extractfile(member) if member.isreg() else None
    if source is None or path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(member.name)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
        os.fchmod(file.fileno(), 0o700 if member.mode & 0o100 else 0o600)
    os.utime(target, (member.mtime, member.mtime))  # bytecode names the time of its source


def _damaged(archive: Archive) -> InputError:
    return InputError(
        f"{archive.path}: found a damaged tar file, expected SHA-256 {archive.sha256[:16]}…; "
        "fix: remove it, and the next job packs it again"
    )
