"""What reading a source leaves behind: staged images, and which of them make up each split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.convert.labels import ClassColumn, Value
from jobs.convert.options import Split
from jobs.convert.staging import Staging


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A file of the source that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A source, read whole.

    `order`: for each split the staged row of each image, in the archive's order. `labels`: of those images, int64 in
    the range of int32. `class_names`: by label; empty if the classes are integers. `sources`: the file of each staged
    row; empty for tables, whose order is that of the archive. `is_numbers`: the source gave no range for its pixels,
    unlike a picture.
    """

    staging: Staging
    order: Mapping[Split, NDArray[np.int64]]
    labels: Mapping[Split, NDArray[np.int64]]
    class_names: Mapping[int, str]
    is_numbers: bool
    sources: Sequence[str] = ()
    bad: Sequence[Bad] = ()


def collected(
    placed: Sequence[tuple[int, Split, Value]], staging: Staging, sources: Sequence[str], bad: Sequence[Bad], name: str
) -> Collected:
    """Return pictures as collected. `placed`: staged row, split and class of each, in the archive's order."""
    column = ClassColumn()
    column.extend([value for _, _, value in placed])
    labels, names = column.encode(name)
    order: dict[Split, NDArray[np.int64]] = {}
    ordered: dict[Split, NDArray[np.int64]] = {}
    for split in ("train", "test"):
        members = [at for at, (_, part, _) in enumerate(placed) if part == split]
        if members:
            order[split] = np.array([placed[at][0] for at in members], np.int64)
            ordered[split] = labels[members]
    return Collected(
        staging=staging,
        order=order,
        labels=ordered,
        class_names=names,
        is_numbers=False,
        sources=sources,
        bad=bad,
    )
