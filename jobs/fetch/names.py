"""The file names that people use for the four archives of a data set."""

import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from jobs.archive import ROLES, Role
from jobs.errors import InputError
from jobs.fetch.convertible import convertible_instead

_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[1-4]-[a-z0-9]+(\.gz)?", re.IGNORECASE)
_EXAMPLES: dict[Role, str] = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte or test-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte or test-labels-idx1-ubyte",
}
_SHOWN = 5  # files of a folder that an error lists


def role_of(name: str) -> Role | None:
    """Return the role that a file name denotes, or None if it is not an archive's name."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    split, kind = match[1].lower(), match[2].lower()
    if split == "train":
        return "train_images" if kind == "images" else "train_labels"
    return "test_images" if kind == "images" else "test_labels"


def find(folder: Path, given: Collection[Role] = ()) -> dict[Role, Path]:
    """Return the archives with customary names in a folder, by role, without the roles that are `given`.

    Raises InputError if a role has two that may differ.
    """
    candidates: dict[Role, list[Path]] = {}
    for path in files_in(folder):
        role = role_of(path.name)
        if role and role not in given:
            candidates.setdefault(role, []).append(path)
    return {role: _choose(role, candidates[role]) for role in ROLES if role in candidates}


def missing(folder: Path, roles: Iterable[Role]) -> InputError:
    """Return the error for a folder that lacks these roles. It lists the accepted names and some of the folder's."""
    lacking = list(roles)
    for path in sorted(folder.iterdir()):
        if role_of(path.name) in lacking and not path.is_file():
            return not_a_file(path)
    convertible = convertible_instead(folder)
    if convertible and len(lacking) == len(ROLES):
        return convertible
    accepted = "; ".join(_EXAMPLES[role] for role in lacking)
    return InputError(
        f"{folder}: found no archive for {', '.join(lacking)}, but {_listing(folder)}; expected {accepted} "
        "(or .idx for -idx, idx1 to idx4, other types than ubyte, with .gz); fix: add it, name the roles by "
        "--train-images F --train-labels F --test-images F --test-labels F, or give another --data"
    )


def not_a_file(path: Path) -> InputError:
    """Return the error for a path with an archive's name that is not a regular file."""
    return InputError(f"{path}: found {_kind(path)}, expected a regular file; fix: put the archive itself there")


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link to {str(path.readlink())!r} ({error.strerror})" if path.is_symlink() else str(error.strerror)
    kinds = {"a folder": stat.S_ISDIR, "a named pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((kind for kind, holds in kinds.items() if holds(mode)), "a device")


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error for a folder or an archive that cannot be read."""
    return InputError(f"{path}: cannot be read ({error.strerror}); fix: give a folder you may read as --data")


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted; raise InputError if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        raise InputError(f"{folder}: found no such folder; fix: give the folder with the archives as --data") from None
    except NotADirectoryError:
        raise convertible_instead(folder) or InputError(
            f"{folder}: found a file, expected a folder; fix: give the folder with the archives as --data"
        ) from None
    except OSError as error:
        raise unreadable(folder, error) from error


def _choose(role: Role, paths: list[Path]) -> Path:
    if len({stem(path) for path in paths}) > 1:
        names = " and ".join(path.name for path in paths)
        raise InputError(f"{paths[0].parent}: found {names} for {role}, expected one; fix: move one out of --data")
    # These are the plain file, its .gz, or both. The plain one needs no decompression.
    return min(paths, key=has_gz_suffix)


def has_gz_suffix(path: Path) -> bool:
    """Return whether a file's name ends with .gz."""
    return path.name.lower().endswith(".gz")


def stem(path: Path) -> str:
    """Return a file's name without .gz."""
    return path.name[:-3] if has_gz_suffix(path) else path.name


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "the folder is empty"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # Quoted: a name may contain a line break, and an error is one line.
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
