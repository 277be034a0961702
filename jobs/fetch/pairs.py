"""Further training pairs of a data folder, such as one a day, each with a tag of its own.

Tagged by the file's name, `train-images-TAG-idx3-ubyte` and `train-labels-TAG-idx1-ubyte`, or by a folder in the data
folder, `TAG/train-images-idx3-ubyte`; all may be .gz. A tag is any printable text: it is only a label, as parts are
named by their content. What is named almost as an archive is refused, so that no pair is left out silently. The test
archives are one pair for all; a folder in the data folder that has some of its own is another data set, and left alone,
as is one whose name begins with a dot.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jobs import segments
from jobs.errors import InputError
from jobs.fetch.names import is_gz, not_a_file, role_of, unreadable

_TAGGED = re.compile(r"(train|t10k|test)-(images|labels)[-.](.+)[-.](idx[1-4]-[a-z0-9]+(?:\.gz)?)", re.IGNORECASE)
# To a person's eye an archive. With a further ending it is none: a copy that still runs may be named so.
_LIKE_ONE = re.compile(
    r"(train|t10k|test)[-._ ]?(images|labels).*idx[0-9]+([-_ ][a-z0-9]+)?(\.gz)?", re.IGNORECASE | re.DOTALL
)
_RULE = "train-images-TAG-idx3-ubyte or train-labels-TAG-idx1-ubyte (also .idx for -idx, and with .gz)"

log = logging.getLogger("idxtrain")


def find_pairs(folder: Path) -> dict[str, Path]:
    """Return the archives of tagged training pairs, by `jobs.segments.key`, sorted by tag.

    Raises InputError for a pair that lacks one of its two, for two files of one role, for a tagged test archive, for a
    name that is almost an archive's, and for an archive's name on what is not a file.
    """
    found: dict[str, Path] = {}
    no_files: dict[str, Path] = {}
    for key, path in _archives(folder):
        if not path.is_file():
            no_files[key] = path
        elif key in found and found[key].parent == path.parent and _stem(found[key]) == _stem(path):
            found[key] = min(found[key], path, key=is_gz)  # the plain one needs no inflating
        elif key in found:
            role, tag = key.split(segments.MARK, 1)
            raise InputError(f"{path}: found {found[key].name} for {role} of {tag}, too, expected one; move one out")
        else:
            found[key] = path
    for key, path in no_files.items():
        if key not in found:
            raise not_a_file(path)
    for tag in segments.tags(found):
        for role, other in (("train_images", "train_labels"), ("train_labels", "train_images")):
            if segments.key(role, tag) not in found:
                raise InputError(
                    f"{found[segments.key(other, tag)]}: found no {role} of {tag} for it; add that archive (copy both "
                    "elsewhere, then rename them into the folder)"
                )
    return dict(sorted(found.items()))


def _archives(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each tagged training archive with its key, whatever it is; raise InputError for a name that cannot be."""
    try:
        for path in sorted(folder.iterdir()):
            key = _key_by_name(folder, path)
            if key:
                yield key, path
            elif path.is_dir() and not path.name.startswith("."):
                yield from _archives_below(path)
    except OSError as error:
        raise unreadable(folder, error) from error


def _key_by_name(folder: Path, path: Path) -> str | None:
    """Return the key of an archive that is tagged by its name; None for anything else in the data folder."""
    match = _TAGGED.fullmatch(path.name)
    role = role_of(f"{match[1]}-{match[2]}-{match[4]}") if match else None
    if match is None or role is None or not _is_tag(match[3]):
        if role_of(path.name) is None and _LIKE_ONE.fullmatch(path.name):
            raise _named_wrongly(path, f"{_RULE}, with printable text for TAG")
        return None
    if role.startswith("test"):
        raise InputError(
            f"{path}: is a test archive with a tag, expected one test pair for all, without; move it into {folder} "
            "without its tag, or out of it"
        )
    return segments.key(role, match[3])


def _archives_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the training archives in a folder of the data folder; none where it is a data set of its own."""
    if not os.access(folder, os.R_OK | os.X_OK):
        log.warning("%s: cannot be read; training pairs in it are left out", folder)
        return
    paths = sorted(folder.iterdir())
    if any(str(role_of(path.name)).startswith("test") for path in paths):
        return
    for path in paths:
        role = role_of(path.name)
        if role is None and _LIKE_ONE.fullmatch(path.name):
            raise _named_wrongly(path, "train-images-idx3-ubyte or train-labels-idx1-ubyte in a folder that is the tag")
        if role is not None and not _is_tag(folder.name):
            raise _named_wrongly(folder, "a folder whose name is printable, as it is the tag of the pair in it")
        if role is not None:
            yield segments.key(role, folder.name), path


def _is_tag(text: str) -> bool:
    return text.isprintable() and not text.isspace()


def _named_wrongly(path: Path, expected: str) -> InputError:
    return InputError(
        f"{path}: found a name that is almost an archive's, expected {expected}; rename it, or move it out of --data"
    )


def _stem(path: Path) -> str:
    return path.name[:-3] if is_gz(path) else path.name
