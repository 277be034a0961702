"""The contract of datasets made of many archive pairs: which archives make a part, and what each part holds.

A data folder may hold more training pairs than one, each with a tag of its own. `fetch` then lists archives under
`train_images@TAG` and `train_labels@TAG` (the pair without a tag: `train_images@`), beside one test pair. `prepare`
decodes each pair once, into `WORK/parts/PART_ID`, and makes the dataset of hard links to the parts' files, so that
later stages see one dataset like any other, and `parts.json` beside its manifest. In the column `index`, bits 32 to 62
tell the part and bits 0 to 31 the row of its archive.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InputError
from jobs.files import read_object, sealed, take_seal, write_json

PARTS = "parts.json"
MARK = "@"
_ROW_BITS, _PART_BITS = 32, 31


def key(role: str, tag: str) -> str:
    """Return the name of a tagged pair's archive among a data set's archives."""
    return f"{role}{MARK}{tag}"


def tags(archives: Iterable[str]) -> list[str]:
    """Return the tags of the training pairs among archives' names, sorted; none for a data set of one plain pair."""
    return sorted({name.partition(MARK)[2] for name in archives if MARK in name})


def first_index(part_id: str) -> int:
    """Return the `index` of a training part's first archive row."""
    return (int(part_id, 16) % (1 << _PART_BITS)) << _ROW_BITS


@dataclass(frozen=True)
class PartInfo:
    """One training pair of a dataset. `rows`: of its archive; `label_counts`, `mean`, `std`: of those trained on."""

    tag: str
    part_id: str
    rows: int
    label_counts: tuple[int, ...]
    mean: float
    std: float


def write_parts(directory: Path, test_part: str, parts: Iterable[PartInfo]) -> None:
    """Write parts.json into a dataset."""
    write_json(directory / PARTS, sealed({"test": test_part, "train": [asdict(part) for part in parts]}))


def read_parts(directory: Path) -> list[PartInfo]:
    """Return a dataset's training parts, in its order; none for one of a plain pair. Raises InputError."""
    return [
        PartInfo(**(dict(part) | {"label_counts": tuple(part["label_counts"])})) for part in _read(directory)["train"]
    ]


def part_ids(directory: Path) -> set[str]:
    """Return the IDs of all parts a dataset is made of."""
    raw = _read(directory)
    return {part["part_id"] for part in raw["train"]} | ({raw["test"]} if raw["test"] else set())


def _read(directory: Path) -> Mapping[str, Any]:
    path, mend = directory / PARTS, f"remove {directory} and prepare it again"
    if not path.exists():
        return {"train": [], "test": ""}
    raw = read_object(path, mend)
    if not take_seal(raw):
        raise InputError(f"{path}: its content is not what was written (SHA-256); {mend}")
    return raw
