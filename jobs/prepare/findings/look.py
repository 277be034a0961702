"""Look at all images of a finished dataset; write findings.csv, findings.json and data.html beside its manifest.

Executors sketch each shard, the driver compares the sketches, executors fetch the few images that are needed whole. The
work grows linearly with the rows, but for sorts; the driver holds about 500 bytes per row. Of more than ten million
rows only equal images are found, not near ones.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.logs import log
from jobs.prepare.findings import near, outliers
from jobs.prepare.findings.classes import class_findings
from jobs.prepare.findings.describe import describe
from jobs.prepare.findings.finding import KINDS, WORDS, ClassFinding, Finding, Kind, count, write
from jobs.prepare.findings.page import pictured, write_page
from jobs.prepare.findings.pairs import PairFinding, equal_images, near_images
from jobs.prepare.findings.rows import Run, View, fetch, join, view_shards
from jobs.prepare.findings.sketch import Sketch

_MOST_COMPARED = 10_000_000  # rows
_MOST_OUTLIERS = 1000  # listed: more are a property of the data, not a finding


def in_this_process(what: str, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """Return function(task) for each task, in order, without Spark."""
    return list(map(function, tasks))


def look(directory: Path, manifest: Manifest, run: Run, views: Sequence[View] | None = None) -> None:
    """Write what is odd about a dataset into its folder, and log it. The same dataset gives the same bytes.

    `views`: of all its shards in order, if they were made while the images were in memory.
    """
    rows = join(manifest, view_shards(directory, manifest, run) if views is None else views)
    flat = rows.sketch.highs == rows.sketch.lows
    equal = [each for each in equal_images(rows.sketch.digests, rows.sketch.labels, rows.is_test) if not flat[each.row]]
    pairs = _near_pairs(rows.sketch, flat, {each.row for each in equal})
    far = _outliers(rows.sketch, flat)
    images = fetch(directory, manifest, rows, run, [*pairs.reshape(-1).tolist(), *pictured(rows, equal, far)])
    alike = list(near_images(*_verified(pairs, images), rows.sketch.labels, rows.is_test))
    is_picture = manifest.values_per_image > 1  # an image of one value says nothing about it
    constant = [PairFinding(kind="constant", row=int(row), other=-1) for row in np.flatnonzero(flat & is_picture)]
    found = [*equal, *alike, *constant, *far]
    found.sort(key=_place_in_file)
    listed, classes = describe(directory, manifest, rows, found), list(class_findings(manifest))
    write(directory, listed, classes)
    write_page(directory, manifest, rows, list(zip(found, listed, strict=True)), classes, images)
    _log(directory, listed, classes)


def _near_pairs(sketch: Sketch, flat: NDArray[Any], copies: set[int]) -> NDArray[Any]:
    """Return pairs of rows that may be nearly equal, int64 [n, 2]; of equal images only one takes part."""
    if len(sketch) > _MOST_COMPARED:
        log.warning("prepare: near duplicates are not searched in more than %s rows", f"{_MOST_COMPARED:,}")
        return np.empty((0, 2), np.int64)
    takes_part = ~flat
    takes_part[list(copies)] = False
    rows = np.flatnonzero(takes_part)
    pairs: NDArray[Any] = rows[near.candidates(sketch.projections[rows])]
    return pairs[sketch.digests[pairs[:, 0]] != sketch.digests[pairs[:, 1]]]


def _verified(pairs: NDArray[Any], images: dict[int, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pairs whose pictures are near, and their distances."""
    distances = np.array([near.picture_distance(images[first], images[second]) for first, second in pairs.tolist()])
    kept = distances <= near.NEAR
    return pairs[kept], distances[kept]


def _outliers(sketch: Sketch, flat: NDArray[Any]) -> list[PairFinding]:
    """Return the outliers, with their distance over the limit; the farthest if there are many."""
    usable = np.flatnonzero(~flat)
    if not len(usable):
        return []
    excess = np.zeros(len(sketch))
    excess[usable] = outliers.excess(outliers.features(sketch)[usable], sketch.labels[usable])
    order = np.lexsort((np.arange(len(excess)), -excess))[:_MOST_OUTLIERS]
    return [
        PairFinding(kind="outlier", row=int(row), other=-1, distance=float(excess[row]))
        for row in order
        if excess[row] > 1
    ]


def _place_in_file(each: PairFinding) -> tuple[int, float, int]:
    """Return the sort key of a finding: its kind, then its row; the farthest outlier first."""
    return KINDS.index(each.kind), -each.distance if each.kind == "outlier" else 0.0, each.row


def _log(directory: Path, images: Sequence[Finding], classes: Sequence[ClassFinding]) -> None:
    first: dict[Kind, str] = {}
    for each in images:
        pair = f" and row {each.other_row} of {each.other_archive}" if each.other_archive else ""
        first.setdefault(each.finding, f"row {each.row} of {each.archive}{pair}")
    for other in classes:
        first.setdefault(other.finding, f"class {other.name}: {other.detail}")
    for kind, number in count([*images, *classes]).items():
        if number:
            log.warning("prepare: %s: %s, first: %s", WORDS[kind], f"{number:,}", first[kind])
