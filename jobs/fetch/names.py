"""The four archives of a data set, and the file names people have them under."""

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from jobs.archive import ROLES, Role
from jobs.errors import InputError

_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[1-4]-[a-z0-9]+(\.gz)?", re.IGNORECASE)
_EXAMPLES: dict[Role, str] = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte or test-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte or test-labels-idx1-ubyte",
}
_SHOWN = 5  # files of a folder that a message names


def role_of(name: str) -> Role | None:
    """Return the role a file name stands for, or None where it is no archive's name."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    split, kind = match[1].lower(), match[2].lower()
    if split == "train":
        return "train_images" if kind == "images" else "train_labels"
    return "test_images" if kind == "images" else "test_labels"


def find(folder: Path) -> dict[Role, Path]:
    """Return the archives that lie in a folder; raise InputError where a role has two that may differ."""
    candidates: dict[Role, list[Path]] = {}
    for path in _files(folder):
        role = role_of(path.name)
        if role:
            candidates.setdefault(role, []).append(path)
    return {role: _choose(role, candidates[role]) for role in ROLES if role in candidates}


def missing(folder: Path, roles: Iterable[Role]) -> InputError:
    """Return the error for a folder that lacks these roles: what is accepted, and what is there instead."""
    wanted = list(roles)
    for path in sorted(folder.iterdir()):
        if role_of(path.name) in wanted and not path.is_file():
            return not_a_file(path)
    accepted = "; ".join(_EXAMPLES[role] for role in wanted)
    return InputError(
        f"{folder}: found no archive for {', '.join(wanted)}, but {_listing(folder)}; expected {accepted} "
        "(also .idx for -idx, idx1 to idx4, other types than ubyte, and with .gz): add it, or give another --data"
    )


def not_a_file(path: Path) -> InputError:
    """Return the error for what is named as an archive and is not a regular file: what it is instead."""
    return InputError(f"{path}: found {_kind(path)}, expected a regular file; put the archive itself there")


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link to {str(path.readlink())!r} ({error.strerror})" if path.is_symlink() else str(error.strerror)
    kinds = {"a folder": stat.S_ISDIR, "a named pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((kind for kind, holds in kinds.items() if holds(mode)), "a device")


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error for a folder or an archive that the system does not let us read."""
    return InputError(f"{path}: cannot be read ({error.strerror}); give a folder you may read as --data")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no such folder; give the one with the archives as --data") from None
    except NotADirectoryError:
        raise InputError(f"{folder}: is not a folder; give the one with the archives as --data") from None
    except OSError as error:
        raise unreadable(folder, error) from error


def _choose(role: Role, paths: list[Path]) -> Path:
    stems = {path.name[:-3] if is_gz(path) else path.name for path in paths}
    if len(stems) > 1:
        found = " and ".join(path.name for path in paths)
        raise InputError(f"{paths[0].parent}: found {found} for {role}, expected one; move the other out of --data")
    # At most the plain file and its .gz are left. The plain one comes first: it needs no inflating.
    return min(paths, key=is_gz)


def is_gz(path: Path) -> bool:
    """Tell by its name whether a file is compressed."""
    return path.name.lower().endswith(".gz")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "the folder is empty"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # Quoted, because a name may hold a line break and a message is one line.
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
