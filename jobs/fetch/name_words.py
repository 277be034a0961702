"""What the words of a file or folder name say about an archive, whatever convention people follow.

`X_train`, `y_test`, `digits-train-labels.idx1`, `emnist-letters-test-images-idx3-ubyte.gz`, `xTrain`, `trainImages`,
`t10k_images`. A name that holds both words, as `train-test-images`, says nothing about the split.
"""

import re
from typing import TypeVar

from jobs.archive import Kind, Split

T = TypeVar("T")

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "t10k"), "test"),
}
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("images", "image", "imgs", "img", "x", "pixels"), "images"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target", "classes"), "labels"),
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BETWEEN = re.compile(r"[\W_]+")
_WORD = re.compile(
    rf"(?:(?P<split>{'|'.join(_SPLITS)})?(?P<kind>{'|'.join(_KINDS)})?"
    rf"|(?P<kind_first>{'|'.join(_KINDS)})(?P<split_last>{'|'.join(_SPLITS)}))"
)


def split_and_kind(name: str) -> tuple[Split | None, Kind | None]:
    """Return which split a file name says an archive belongs to, and what it holds; None for what it does not say."""
    splits: set[Split] = set()
    kinds: set[Kind] = set()
    for word in _BETWEEN.split(_CAMEL.sub("-", name).lower()):
        match = _WORD.fullmatch(word)
        if match and word:
            split, kind = match["split"] or match["split_last"], match["kind"] or match["kind_first"]
            splits |= {_SPLITS[split]} if split else set()
            kinds |= {_KINDS[kind]} if kind else set()
    return _only(splits), _only(kinds)


def split_of_folder(name: str) -> Split | None:
    """Return which split a folder holds by its name, such as `train` or `Testing`; None for any other name."""
    return _SPLITS.get(name.lower())


def _only(values: set[T]) -> T | None:
    return next(iter(values)) if len(values) == 1 else None
