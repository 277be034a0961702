"""Which split and class a picture belongs to: its folders say so."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import Literal

from jobs.convert.options import Options, Split
from jobs.errors import InputError

_SPLITS: dict[str, Split | Literal["validation"]] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "t10k": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class Layout:
    """The folders of a source: `SPLIT/CLASS/…` or `CLASS/…`, below any folders that all pictures share.

    Made of the paths of all usable pictures, with `/` between folders. Raises InputError if folders of splits and of
    classes are mixed, if splits have no folders of classes, or if there is a validation split and `options.validation`
    does not say what to do with it.
    """

    def __init__(self, paths: Sequence[str], name: str, options: Options) -> None:
        folders = [_folders(path) for path in paths]
        in_folders = [each for each in folders if each]
        self._shared = _shared(in_folders)
        rest = [each[self._shared :] for each in in_folders]
        firsts = {each[0] for each in rest}
        splits = {each[0] for each in rest if each[0].lower() in _SPLITS and len(each) > 1}
        self._has_splits = bool(splits) and firsts == splits
        without_classes = sorted(firsts - splits)
        if without_classes and all(each.lower() in _SPLITS for each in firsts):
            raise InputError(
                f"{name}: found pictures directly in {' and '.join(without_classes)}, expected a folder per class in "
                f"it; fix: sort them into {without_classes[0]}/CLASS"
            )
        if splits and firsts != splits:
            raise InputError(
                f"{name}: found the folders {min(splits)} and {min(firsts - splits)} side by side, expected train and "
                "test, or one folder per class; fix: move one of them"
            )
        validation = sorted(each for each in splits if _SPLITS[each.lower()] == "validation")
        if validation and options.validation is None:
            raise InputError(
                f"{name}: found a folder {validation[0]}, expected train and test, as IDX has no third split; fix: "
                "choose what it becomes with --validation train, test or omit"
            )
        self._validation = options.validation

    def place(self, path: str) -> tuple[Split | Literal["omit"], str] | None:
        """Return the split and the class of a picture; None if it is in no folder of a class."""
        folders = _folders(path)[self._shared :]
        if not folders:
            return None
        if not self._has_splits:
            return "train", folders[0]
        if len(folders) < 2:
            return None
        split = _SPLITS.get(folders[0].lower())
        if split is None:  # beside train and test, without a picture: a folder of annotations, say
            return None
        return (self._validation or "omit") if split == "validation" else split, folders[1]


def split_of_name(name: str) -> Split | Literal["validation"] | None:
    """Return the split that a file's name mentions, e.g. "test" for mnist_test.csv; None if it mentions none."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def mixed(paths: Sequence[str]) -> list[int]:
    """Return an order of pictures that mixes all classes: that of the BLAKE2 hashes of their paths.

    A training shuffles in windows, and pictures sorted by class would fill a window with one class. The order of two
    pictures does not depend on the others, nor on where the source lies.
    """
    return sorted(range(len(paths)), key=lambda row: blake2b(os.fsencode(paths[row]), digest_size=16).digest())


def split_files(paths: Sequence[Path], options: Options, default: Split | None = None) -> dict[Path, Split]:
    """Return the split of each file, as its name says; without a file of a validation split that is omitted.

    `default`: of a file whose name says nothing. Raises InputError if a name is unclear.
    """
    splits: dict[Path, Split] = {}
    for path in paths:
        split = split_of_name(path.name) or default
        if split is None:
            raise InputError(f"{path}: found a name without train or test, expected either; fix: rename it")
        if split == "validation" and options.validation is None:
            raise InputError(
                f"{path}: found a validation split, expected train or test, as IDX has no third; fix: choose what it "
                "becomes with --validation train, test or omit"
            )
        becomes = options.validation if split == "validation" else split
        if becomes == "train" or becomes == "test":
            splits[path] = becomes
    return splits


def _folders(path: str) -> list[str]:
    return path.split("/")[:-1]


def _shared(folders: Sequence[list[str]]) -> int:
    """Return how many leading folders all paths share, not counting those of a split or of a class."""
    if not folders:
        return 0
    first, last = min(folders), max(folders)  # what these two share, all share
    most = min(map(len, folders)) - 1
    same = zip(first[:most], last[:most], strict=True)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] and pair[0].lower() not in _SPLITS, same))
