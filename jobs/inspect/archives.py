"""Find the IDX archives of a path, and what is known beside them, as `fetch` does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jobs import segments
from jobs.archive import ROLES
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.candidates import plain_first
from jobs.fetch.check import check
from jobs.fetch.config import FetchConfig
from jobs.fetch.convertible import convertible_instead
from jobs.fetch.data_set import FILE, DataSet, read_data_set
from jobs.fetch.describe import describe
from jobs.fetch.identify import identify
from jobs.fetch.locate import locate
from jobs.fetch.names import files_in, find, stem
from jobs.fetch.sniff import sniff
from jobs.label_options import NO_LABEL_OPTIONS, Column
from jobs.prepare import idx

_SPLITS = {"train": "training", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Archives that belong together: images, their labels, or both. `name`: of the split, or of a file without one."""

    name: str
    images: Path | None = None
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Archives:
    """What is at a path. `refusal`: why a training would refuse the folder; empty if it would not, or for a file."""

    path: Path
    parts: list[Part]
    description: Description = field(default_factory=Description)
    refusal: str = ""


def archives(path: Path) -> Archives:
    """Return the archives of a file or a folder. Raises InputError if there are none, or labels do not fit images.

    A folder's archives have the roles that `idxtrain run --data` gives them. Any other IDX file in it is paired with
    the one that has as many rows, or shown alone.
    """
    if not path.is_dir():
        if not sniff(path) and (convertible := convertible_instead(path)):
            raise convertible
        idx.read_header(path)
        return Archives(path=path, parts=_without_role([path]))
    folder = path.absolute()  # as fetch has its archives
    by_key, description, refusal = _as_fetch(folder)
    splits = dict.fromkeys(_split(key) for key in by_key)
    parts = [
        Part(
            name=f"{_SPLITS[split]} {tag}".rstrip(),
            images=by_key.get(f"{split}_images{mark}{tag}"),
            labels=by_key.get(f"{split}_labels{mark}{tag}"),
        )
        for split, mark, tag in splits
    ]
    used = {(each.parent, stem(each)) for each in by_key.values()}
    parts += _without_role([each for each in plain_first(files_in(folder)) if (folder, stem(each)) not in used])
    if not parts:
        raise convertible_instead(path) or InputError(
            f"{path}: found no IDX archive, expected some; fix: give a folder that has some"
        )
    for part in parts:
        if part.images and part.labels:
            _check_rows(part.images, part.labels)
    return Archives(path=path, parts=parts, description=description, refusal=refusal)


def _as_fetch(folder: Path) -> tuple[dict[str, Path], Description, str]:
    """Return the archives by role, or role and tag, what is known of them, and why fetch would refuse the folder."""
    try:
        located = locate(FetchConfig(dataset="data", data=str(folder)))
    except InputError as error:
        own = read_data_set(folder / FILE) if (folder / FILE).is_file() else DataSet()
        described = Description(class_names=own.class_names, orientation=own.orientation, label_column=own.label_column)
        return dict(_find(folder)), described, str(error)
    column: Column = 0
    refusal = ""
    identities = {key: known for key, path in located.archives.items() if (known := identify(path))}
    try:
        column = check(located, located.archives, NO_LABEL_OPTIONS).label_column
    except InputError as error:
        refusal = str(error)
    return dict(located.archives), describe(located, identities, column), refusal


def _find(folder: Path) -> dict[str, Path]:
    try:
        return {role: path for role, path in find(folder).items() if role in ROLES}
    except InputError:
        return {}


def _split(key: str) -> tuple[str, str, str]:
    """Return the split, the mark of a tag, and the tag in an archive's key; both are empty without a tag."""
    role, mark, tag = key.partition(segments.MARK)
    return role.partition("_")[0], mark, tag


def _without_role(paths: Iterable[Path]) -> list[Part]:
    """Return the IDX files among these as parts: pairs of the same number of rows, if it is theirs alone."""
    kinds = {path: header.kind or "images" for path in paths if (header := sniff(path))}
    rows = {path: header.rows for path in kinds if (header := sniff(path))}
    counts = Counter((kinds[path], rows[path]) for path in kinds)
    labels_of = {rows[path]: path for path in kinds if kinds[path] == "labels" and counts["labels", rows[path]] == 1}
    parts = []
    for path in kinds:
        is_pair = counts["images", rows[path]] == 1 and rows[path] in labels_of
        if kinds[path] == "images":
            parts.append(Part(name=path.name, images=path, labels=labels_of[rows[path]] if is_pair else None))
        elif not is_pair or path != labels_of[rows[path]]:
            parts.append(Part(name=path.name, labels=path))
    return parts


def _check_rows(images: Path, labels: Path) -> None:
    counts = idx.read_header(images).rows, idx.read_header(labels).rows
    if counts[0] != counts[1]:
        raise InputError(
            f"{labels}: found {counts[1]:,} labels, expected {counts[0]:,} for {images.name}; fix: inspect each alone"
        )
