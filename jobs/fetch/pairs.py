"""Further training pairs of a data folder, such as one a day, each with a tag of its own.

Tagged by the file's name, `train-images-TAG-idx3-ubyte` and `train-labels-TAG-idx1-ubyte`, or by a folder in the data
folder, `TAG/train-images-idx3-ubyte`; all may be .gz. The test archives are one pair for all; a folder in the data
folder that has some of its own is another data set, and left alone.
"""

import os
import re
from pathlib import Path

from jobs import parts
from jobs.errors import InputError
from jobs.fetch.names import is_gz, role_of, unreadable

_TAG = r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}"
_TAGGED = re.compile(rf"(train|t10k|test)-(images|labels)[-.]({_TAG})[-.](idx[1-4]-[a-z0-9]+(?:\.gz)?)", re.IGNORECASE)


def find_pairs(folder: Path) -> dict[str, Path]:
    """Return the archives of tagged training pairs, by `jobs.parts.key`, sorted by tag.

    Raises InputError for a pair that lacks one of its two, for two files of one role, and for a tagged test archive.
    """
    found: dict[str, Path] = {}
    for path in _candidates(folder):
        role, tag = _role_and_tag(folder, path)
        if role is None:
            continue
        if role.startswith("test"):
            raise InputError(
                f"{path}: is a test archive with a tag, expected one test pair for all, without; move it into {folder} "
                "without its tag, or out of it"
            )
        key = parts.key(role, tag)
        if key in found and found[key].parent == path.parent and _stem(found[key]) == _stem(path):
            found[key] = min(found[key], path, key=is_gz)  # the plain one needs no inflating
        elif key in found:
            raise InputError(f"{path}: found {found[key].name} for {role} of {tag}, too, expected one; move one out")
        else:
            found[key] = path
    for tag in parts.tags(found):
        for role, other in (("train_images", "train_labels"), ("train_labels", "train_images")):
            if parts.key(role, tag) not in found:
                raise InputError(
                    f"{found[parts.key(other, tag)]}: found no {role} of {tag} for it; add that archive (copy both "
                    "elsewhere, then rename them into the folder)"
                )
    return dict(sorted(found.items()))


def _candidates(folder: Path) -> list[Path]:
    try:
        here = sorted(folder.iterdir())
        below = [_pair_files(each) for each in here if re.fullmatch(_TAG, each.name) and each.is_dir()]
        return [path for path in (*here, *(path for paths in below for path in paths)) if path.is_file()]
    except OSError as error:
        raise unreadable(folder, error) from error


def _pair_files(folder: Path) -> list[Path]:
    """Return the training archives in a folder of the data folder; none where it is a data set of its own."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return []
    roles = {path: role_of(path.name) for path in sorted(folder.iterdir())}
    found = [path for path, role in roles.items() if role is not None]
    return [] if any(str(roles[path]).startswith("test") for path in found) else found


def _role_and_tag(folder: Path, path: Path) -> tuple[str | None, str]:
    if path.parent != folder:
        return role_of(path.name), path.parent.name
    match = _TAGGED.fullmatch(path.name)
    return (role_of(f"{match[1]}-{match[2]}-{match[4]}"), match[3]) if match else (None, "")


def _stem(path: Path) -> str:
    return path.name[:-3] if is_gz(path) else path.name
