"""The contract of datasets made of many archive pairs: which archives make a segment, and what each segment holds.

A data folder may hold several training pairs, each with its own tag. `fetch` then lists archives under
`train_images@TAG` and `train_labels@TAG` (`train_images@` for the pair without a tag), beside one test pair. `prepare`
decodes each pair once into a segment, `WORK/segments/SEGMENT_ID`. The dataset consists of hard links to the segments'
files, so later stages see it as any other dataset. `segments.json` beside its manifest lists the segments. In the
column `index`, bits 32 to 62 identify the segment and bits 0 to 31 the row in its archive.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InputError
from jobs.files import read_object, sealed, take_seal, write_json

SEGMENTS = "segments.json"
MARK = "@"
_OLD_NAME = "parts.json"  # of development versions
_ROW_BITS, _SEGMENT_BITS = 32, 31


def key(role: str, tag: str) -> str:
    """Return the name of a tagged pair's archive among the archives of a data set."""
    return f"{role}{MARK}{tag}"


def tags(archives: Iterable[str]) -> list[str]:
    """Return the sorted tags of the training pairs among archive names; empty for a data set of one plain pair."""
    return sorted({name.partition(MARK)[2] for name in archives if MARK in name})


def first_index(segment_id: str) -> int:
    """Return the `index` of the first archive row of a training segment."""
    return (int(segment_id, 16) % (1 << _SEGMENT_BITS)) << _ROW_BITS


def archive_row(index: int, segments: "Iterable[SegmentInfo]") -> tuple[str, int]:
    """Return the archive name, as in `Manifest.sources`, and the row in it, from 0, of a training image's `index`.

    `segments`: of the dataset; empty for a dataset of one plain pair.
    """
    row = row_of(index)
    for each in segments:
        if first_index(each.segment_id) == index - row:
            return key("train_images", each.tag), row
    return "train_images", index


def row_of(index: int) -> int:
    """Return the row in its archive, from 0, that an `index` stands for."""
    return index & ((1 << _ROW_BITS) - 1)


def segment_of(index: int) -> int:
    """Return the number of the segment that an `index` belongs to: see `SegmentInfo.number`."""
    return index >> _ROW_BITS


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """One training pair of a dataset.

    `rows`: of its archive. `label_counts`, `mean`, `std`: of the rows in the train split; pixels in [0, 1].
    """

    tag: str
    segment_id: str
    rows: int
    label_counts: tuple[int, ...]
    mean: float
    std: float

    @property
    def number(self) -> int:
        """Bits 32 to 62 of the `index` of the segment's rows."""
        return segment_of(first_index(self.segment_id))


def write_segments(directory: Path, test_segment: str, segments: Iterable[SegmentInfo]) -> None:
    """Write segments.json into a dataset. `test_segment`: the ID of the test pair's segment."""
    write_json(directory / SEGMENTS, sealed({"test": test_segment, "train": [asdict(each) for each in segments]}))


def read_segments(directory: Path) -> list[SegmentInfo]:
    """Return a dataset's training segments in order; empty for a dataset of one plain pair. Raises InputError."""
    return [
        SegmentInfo(**(dict(each) | {"label_counts": tuple(each["label_counts"])}))
        for each in _read(directory)["train"]
    ]


def segment_ids(directory: Path) -> set[str]:
    """Return the IDs of all segments of a dataset."""
    raw = _read(directory)
    return {each["segment_id"] for each in raw["train"]} | ({raw["test"]} if raw["test"] else set())


def require_current(directory: Path) -> None:
    """Raise InputError for a dataset that lists its segments as development versions did."""
    if (directory / _OLD_NAME).exists():
        raise InputError(
            f"{directory / _OLD_NAME}: found a dataset of an older version, expected {SEGMENTS}; fix: remove "
            f"{directory} and prepare it again"
        )


def _read(directory: Path) -> Mapping[str, Any]:
    path, fix = directory / SEGMENTS, f"remove {directory} and prepare it again"
    require_current(directory)
    if not path.exists():
        return {"train": [], "test": ""}
    raw = read_object(path, fix)
    if not take_seal(raw):
        raise InputError(f"{path}: found a SHA-256 that does not match, expected unchanged content; fix: {fix}")
    return raw
