"""Sketches in a folder, one file a column: the driver maps those of a whole dataset instead of holding them."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jobs.files import naming_full_disk
from jobs.prepare.findings.sketch import PROJECTIONS, Sketch
from jobs.prepare.mapped import mapped

_TYPES: dict[str, np.dtype[Any]] = {
    "labels": np.dtype("<i4"),
    "indices": np.dtype("<i8"),
    **dict.fromkeys(("lows", "highs", "means", "contrasts", "spreads"), np.dtype("<f4")),
    "projections": np.dtype("i1"),
}


def write_sketches(folder: Path, sketches: Iterable[Sketch]) -> None:
    """Write sketches into a new folder, one after another: about 220 bytes per row."""
    folder.mkdir()
    with naming_full_disk(folder), ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in _TYPES}
        for sketch in sketches:
            for name, file in files.items():
                file.write(np.ascontiguousarray(getattr(sketch, name), _TYPES[name]).data)


def map_sketch(folder: Path) -> Sketch:
    """Return all sketches in a folder as one, whose columns are mapped."""
    return Sketch(
        **{
            name: mapped(folder / name, dtype, PROJECTIONS if name == "projections" else None)
            for name, dtype in _TYPES.items()
        }
    )
