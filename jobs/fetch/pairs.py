"""Tagged training pairs of a data folder, for example one a day.

The tag is part of the file name, `train-images-TAG-idx3-ubyte` and `train-labels-TAG-idx1-ubyte`, or the name of a
folder in the data folder, `TAG/train-images-idx3-ubyte`. All may be .gz. A tag is any printable text. It is only a
label: a segment, the decoded pair, is named by its content. A name that is almost an archive's is refused, so that no
pair is skipped silently. All pairs share one untagged test pair. A folder that has test archives is another data set
and is ignored, as is a folder whose name starts with a dot.
"""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from jobs import segments
from jobs.errors import InputError
from jobs.fetch.names import has_gz_suffix, not_a_file, role_of, stem, unreadable

_TAGGED = re.compile(r"(train|t10k|test)-(images|labels)[-.](.+)[-.](idx[1-4]-[a-z0-9]+(?:\.gz)?)", re.IGNORECASE)
# Looks like an archive's name to a person. Another suffix is allowed: unfinished copies have one.
_LIKE_ONE = re.compile(
    r"(train|t10k|test)[-._ ]?(images|labels).*idx[0-9]+([-_ ][a-z0-9]+)?(\.gz)?", re.IGNORECASE | re.DOTALL
)
_RULE = "train-images-TAG-idx3-ubyte or train-labels-TAG-idx1-ubyte (also .idx for -idx, and with .gz)"

log = logging.getLogger("idxtrain")


def find_pairs(folder: Path, used: Collection[Path] = ()) -> dict[str, Path]:
    """Return the archives of tagged training pairs, by `jobs.segments.key`, sorted by tag.

    `used`: files that have a role already.

    Raises InputError for an incomplete pair, for two files of one role, for a tagged test archive, for a name that is
    almost an archive's, and for an archive's name that is not a file.
    """
    archives: dict[str, Path] = {}
    not_files: dict[str, Path] = {}
    for key, path in _candidates(folder, used):
        known = archives.get(key)
        if not path.is_file():
            not_files[key] = path
        elif known is None:
            archives[key] = path
        elif known.parent == path.parent and stem(known) == stem(path):
            archives[key] = min(known, path, key=has_gz_suffix)  # the plain one needs no decompression
        else:
            role, tag = key.split(segments.MARK, 1)
            raise InputError(f"{path}: found {known.name} for {role} of {tag} too, expected one; fix: move one out")
    for key, path in not_files.items():
        if key not in archives:
            raise not_a_file(path)
    _require_pairs(archives)
    return dict(sorted(archives.items()))


def _require_pairs(archives: Mapping[str, Path]) -> None:
    for tag in segments.tags(archives):
        for role, other in (("train_images", "train_labels"), ("train_labels", "train_images")):
            if segments.key(role, tag) not in archives:
                raise InputError(
                    f"{archives[segments.key(other, tag)]}: found no {role} of {tag} for it; fix: add that archive "
                    "(copy both elsewhere, then rename them into the folder)"
                )


def _candidates(folder: Path, used: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """Yield each path with a tagged training archive's name, and its key; raise InputError for a bad name."""
    try:
        for path in _unused(folder, used):
            key = _key_by_name(folder, path)
            if key:
                yield key, path
            elif path.is_dir() and not path.name.startswith("."):
                yield from _candidates_below(path, used)
    except OSError as error:
        raise unreadable(folder, error) from error


def _unused(folder: Path, used: Collection[Path]) -> list[Path]:
    """Return what is in a folder, sorted, without the used files and the .gz of each, or the plain file of a .gz."""
    stems = {(path.parent, stem(path)) for path in used}
    return sorted(path for path in folder.iterdir() if (path.parent, stem(path)) not in stems)


def _key_by_name(folder: Path, path: Path) -> str | None:
    """Return the key of an archive that is tagged by its name; None for any other name."""
    match = _TAGGED.fullmatch(path.name)
    role = role_of(f"{match[1]}-{match[2]}-{match[4]}") if match else None
    if match is None or role is None or not _is_tag(match[3]):
        if role_of(path.name) is None and _LIKE_ONE.fullmatch(path.name):
            raise _bad_name(path, f"{_RULE}, with printable text for TAG")
        return None
    if role.startswith("test"):
        raise InputError(
            f"{path}: found a test archive with a tag, expected one untagged test pair for all; fix: move it into "
            f"{folder} without its tag, or out of it"
        )
    return segments.key(role, match[3])


def _candidates_below(folder: Path, used: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the training archives in a folder of the data folder; none if it is another data set."""
    if not os.access(folder, os.R_OK | os.X_OK):
        log.warning("%s: cannot be read; training pairs in it are skipped", folder)
        return
    paths = _unused(folder, used)
    if any(str(role_of(path.name)).startswith("test") for path in paths):
        return
    for path in paths:
        role = role_of(path.name)
        if role is None and _LIKE_ONE.fullmatch(path.name):
            raise _bad_name(
                path, "train-images-idx3-ubyte or train-labels-idx1-ubyte in a folder whose name is the tag"
            )
        if role is not None and not _is_tag(folder.name):
            raise _bad_name(folder, "a printable name, because it is the tag of the pair in the folder")
        if role is not None:
            yield segments.key(role, folder.name), path


def _is_tag(text: str) -> bool:
    return text.isprintable() and not text.isspace()


def _bad_name(path: Path, expected: str) -> InputError:
    return InputError(
        f"{path}: found a name that is almost an archive's, expected {expected}; "
        "fix: rename it, or move it out of --data"
    )
