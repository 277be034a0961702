"""Find the IDX archives of a path, and what is known beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.archive import Role
from jobs.convert.convert import class_names
from jobs.errors import InputError
from jobs.fetch.names import find
from jobs.prepare import idx

_MOST_COLUMNS = 16  # of labels in an idx2 archive; a row of an image has more values
_SPLITS: Mapping[str, tuple[Role, Role]] = {
    "training": ("train_images", "train_labels"),
    "test": ("test_images", "test_labels"),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Archives that belong together: images, their labels, or both. `name`: of the split, or of a file without one."""

    name: str
    images: Path | None = None
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Archives:
    """What is at a path. `class_names`: by label, as far as known."""

    path: Path
    parts: list[Part]
    class_names: Mapping[int, str] = field(default_factory=dict)
    label_column: int = 0


def archives(path: Path) -> Archives:
    """Return the archives of a file or a folder. Raises InputError if there are none, or a header is damaged.

    In a folder, names show the split; any other IDX file in it is a part of its own.
    """
    if not path.is_dir():
        return Archives(path=path, parts=[_lone(path)])
    by_role = find(path)
    parts = [
        Part(name=name, images=by_role.get(images), labels=by_role.get(labels))
        for name, (images, labels) in _SPLITS.items()
        if images in by_role or labels in by_role
    ]
    used = {each for part in parts for each in (part.images, part.labels)}
    others = [each for each in sorted(path.iterdir()) if each not in used and _is_archive(each)]
    parts += [_lone(each) for each in others]
    if not parts:
        raise InputError(f"{path}: found no IDX archive, expected some; fix: make them by idxtrain convert")
    for part in parts:
        if part.images and part.labels:
            idx.check_pair(part.images, idx.read_header(part.images), part.labels, idx.read_header(part.labels))
    return Archives(path=path, parts=parts, class_names=class_names(path))


def _lone(path: Path) -> Part:
    header = idx.read_header(path)
    are_labels = len(header.shape) == 1 or (
        len(header.shape) == 2 and header.dtype.kind == "i" and header.shape[1] <= _MOST_COLUMNS
    )
    return Part(name=path.name, labels=path) if are_labels else Part(name=path.name, images=path)


def _is_archive(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        idx.read_header(path)
    except InputError:
        return False
    return True
