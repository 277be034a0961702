"""Files and folders of other formats that are given in place of archives, and the command that converts them."""

import re
import shlex
from itertools import islice
from pathlib import Path

from jobs.errors import InputError

# What `jobs.convert` reads: pictures, tables, and archives of pictures.
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FILES = (".npz", ".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".zip", ".tar", ".tar.gz", ".tgz")
_CIFAR = re.compile(r"(data_batch_\d|test_batch|train|test)\.bin")
_EXAMINED = 1000  # files, of folders that may hold millions


def convertible_instead(path: Path) -> InputError | None:
    """Return the error for a file of another format, or for a folder of such files; None for anything else."""
    if path.is_file():
        found = "a file to convert, expected IDX archives" if path.name.lower().endswith(_FILES) else ""
    else:
        name = _convertible(path)
        found = f"no IDX archive, but {name!r}" if name else ""
    if not found:
        return None
    place = path.absolute() if path.name not in ("", "..") else path.resolve()  # "." and ".." name no folder
    source, target = _here(place), _here(_target(place))
    command = shlex.join(["idxtrain", "convert", source, target])
    return InputError(f"{path}: found {found}; fix: `{command}`, then give {shlex.quote(target)} instead")


def _convertible(folder: Path) -> str | None:
    """Return the name of a file to convert, in a folder or up to two below; None without one."""
    for pattern in ("*", "*/*", "*/*/*"):
        names = [path.name for path in islice(folder.glob(pattern), _EXAMINED)]
        fitting = [each for each in names if each.lower().endswith((*_PICTURES, *_FILES)) or _CIFAR.fullmatch(each)]
        if fitting:
            return min(fitting)
    return None


def _target(source: Path) -> Path:
    """Return the name of a new folder beside a source: its own without the ending, or with `-idx`."""
    lower = source.name.lower()
    ending = max((each for each in _FILES if lower.endswith(each)), key=len, default="") if source.is_file() else ""
    target = source.with_name(source.name[: -len(ending)] or "data") if ending else source
    number = 1
    plain = target
    while target.exists():
        target = plain.parent / f"{plain.name}-idx{number if number > 1 else ''}"  # "/" has no name
        number += 1
    return target


def _here(path: Path) -> str:
    """Return a path as short as it is from the current folder."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
