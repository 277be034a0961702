"""Look at all images of a finished dataset; write findings.csv, findings.json and data.html beside its manifest.

Executors sketch each shard, the driver compares the sketches, executors fetch the few pictures that are needed. The work
grows linearly with the rows, but for one sort; the driver holds about 400 bytes per row. Above ten million rows it looks
only for equal images, not for near ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs import segments
from jobs.dataset import SPLITS, Manifest, Shard, Split
from jobs.logs import log
from jobs.prepare.findings import finding, near, outliers, page
from jobs.prepare.findings.classes import class_findings
from jobs.prepare.findings.finding import ClassFinding, Finding, Kind
from jobs.prepare.findings.pairs import PairFinding, equal_images, near_images
from jobs.prepare.findings.sketch import Sketch, join, read_shard, sketch_shard

T = TypeVar("T")
Run = Callable[[str, Callable[[Any], Any], Sequence[Any]], list[Any]]

_MOST_COMPARED = 10_000_000  # rows
_MOST_OUTLIERS = 1000  # listed: more would be a property of the data


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows of a dataset: train, validation, test. `split`: int8 [n], the number of each row's split in SPLITS."""

    sketch: Sketch
    split: NDArray[Any]
    shards: tuple[Shard, ...]
    starts: NDArray[Any]

    @property
    def is_test(self) -> NDArray[Any]:
        """Whether each row is in the test split: bool [n]."""
        return self.split == SPLITS.index("test")

    def locate(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Return, by the number of the shard, the positions in it of these rows, increasing."""
        wanted: dict[int, list[int]] = {}
        for row in sorted(set(rows)):
            number = int(np.searchsorted(self.starts, row, side="right")) - 1
            wanted.setdefault(number, []).append(row - int(self.starts[number]))
        return wanted


def look(directory: Path, manifest: Manifest, run: Run) -> None:
    """Write what is odd about a dataset into its folder, and log it. `run`: `Spark.collect`, or `in_this_process`."""
    shards = tuple(shard for split in SPLITS for shard in manifest.splits[split].shards)
    parts = run("prepare: looking at the images", partial(sketch_shard, directory, manifest.shape), shards)
    sketch = join(parts)
    split = np.repeat(
        [SPLITS.index(name) for name in SPLITS], [manifest.splits[name].rows for name in SPLITS]
    ).astype(np.int8)
    rows = Rows(sketch=sketch, split=split, shards=shards, starts=np.cumsum([0, *map(len, parts)])[:-1])
    pairs, distances, excess = _candidates(sketch)
    far = _farthest(excess)
    pictures = _Pictures(directory, manifest, rows, run, [*pairs.reshape(-1).tolist(), *page.wanted(rows, far)])
    if len(pairs):
        distances = np.concatenate(
            [near.picture_distance(pictures.of(part[:, 0]), pictures.of(part[:, 1])) for part in np.array_split(pairs, -(-len(pairs) // 1024))]
        )
        kept = distances <= near.NEAR
        pairs, distances = pairs[kept], distances[kept]
    found = list(_image_findings(rows, pairs, distances, excess, far))
    describe = _Describe(directory, manifest, rows)
    images, classes = [describe(each) for each in found], list(class_findings(manifest))
    finding.write(directory, images, classes)
    page.write(directory, manifest, rows, found, images, classes, pictures)
    _log(directory, images, classes)
