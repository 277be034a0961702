"""Look at all images of a dataset; write findings.csv, findings.json and data.html beside its manifest.

Executors sketch each shard; the driver compares the sketches, and reads the few images that are needed whole. The work
grows linearly with the rows, but for sorts; the driver holds about 500 bytes per row. Of more than ten million rows
only equal images are found, not near ones.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from jobs.dataset import Manifest
from jobs.logs import log
from jobs.prepare.findings import near, outliers
from jobs.prepare.findings.classes import class_findings
from jobs.prepare.findings.constant import constant_images
from jobs.prepare.findings.describe import describe
from jobs.prepare.findings.finding import KINDS, WORDS, ClassFinding, Finding, Kind, count, write
from jobs.prepare.findings.page import pictured, write_page
from jobs.prepare.findings.pairs import PairFinding, equal_images, near_images
from jobs.prepare.findings.rows import Images, Read, Rows, View, fetch, join, read_parquet, view_shards
from jobs.prepare.findings.sketch import Sketch

_MOST_COMPARED = 10_000_000  # rows
_CHUNK_BYTES = 256 << 20  # of images that the driver holds at a time to compare pairs
_MOST_OUTLIERS = 1000  # listed: more are a property of the data, not a finding


def look_at_files(directory: Path, manifest: Manifest, digests: bytes) -> None:
    """Do what `look` does, by the dataset's files alone."""
    look(directory, manifest, view_shards(directory, manifest), digests, partial(read_parquet, directory, manifest))


def look(directory: Path, manifest: Manifest, views: Sequence[View], digests: bytes, read: Read) -> None:
    """Write what is odd about a dataset into its folder, and log it. The same dataset gives the same bytes.

    `views`: of all shards, in order. `digests`: 16 bytes for each row, as surveyed.
    """
    rows = join(manifest, views, digests)
    flat = rows.is_flat
    equal = sorted(equal_images(rows.digests, rows.sketch.labels, rows.is_test, flat), key=_place_in_file)
    constant = constant_images(rows.sketch, flat, manifest.values_per_image)
    blank = flat.copy()
    blank[[each.row for each in constant]] = True
    pairs = _near_pairs(rows, blank, {each.row for each in equal})
    far = _outliers(rows.sketch, blank)
    get = partial(fetch, rows, read)
    alike, images = _verified(rows, pairs, pictured(rows, equal, constant, far), get, manifest.values_per_image)
    found = [*equal, *alike, *constant, *far]
    found.sort(key=_place_in_file)
    listed, classes = describe(directory, manifest, rows, found), list(class_findings(manifest))
    write(directory, listed, classes)
    write_page(directory, manifest, rows, list(zip(found, listed, strict=True)), classes, images)
    _log(listed, classes)


def _near_pairs(rows: Rows, blank: NDArray[Any], copies: set[int]) -> NDArray[Any]:
    """Return pairs of rows that may be nearly equal, int64 [n, 2]. Copies and blank images take no part."""
    sketch = rows.sketch
    if len(sketch) > _MOST_COMPARED:
        log.warning("prepare: near duplicates are not searched in more than %s rows", f"{_MOST_COMPARED:,}")
        return np.empty((0, 2), np.int64)
    takes_part = ~blank
    takes_part[list(copies)] = False
    numbers = np.flatnonzero(takes_part)
    pairs: NDArray[Any] = numbers[near.candidates(sketch.projections[numbers])]
    pairs = pairs[rows.digests[pairs[:, 0]] != rows.digests[pairs[:, 1]]]
    return near.nearest(sketch.projections, pairs, rows.is_test)


def _verified(
    rows: Rows, pairs: NDArray[Any], wanted: list[int], get: Callable[[list[int]], Images], values: int
) -> tuple[list[PairFinding], Images]:
    """Return the findings of the pairs whose pictures are near, and the images that the page shows, by row.

    `wanted`: rows that the page shows beside those of these findings. `get`: fetches the images of rows. The driver
    holds those of a chunk of the pairs at a time.
    """
    step = max(1, _CHUNK_BYTES // (2 * 4 * values))
    images: Images = {}
    kept, distances = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for start in range(0, max(1, len(pairs)), step):
        chunk = pairs[start : start + step]
        is_last = start + step >= len(pairs)
        images = get([*chunk.reshape(-1).tolist(), *(wanted if is_last else [])])
        apart = np.array([near.picture_distance(images[first], images[second]) for first, second in chunk.tolist()])
        kept.append(chunk[apart <= near.NEAR])
        distances.append(apart[apart <= near.NEAR])
    found = list(near_images(np.concatenate(kept), np.concatenate(distances), rows.sketch.labels, rows.is_test))
    if missing := [row for row in pictured(rows, found) if row not in images]:  # of other chunks than the last
        images |= get(missing)
    return found, images


def _outliers(sketch: Sketch, blank: NDArray[Any]) -> list[PairFinding]:
    """Return the outliers, with their distance over the limit; the farthest if there are many."""
    usable = np.flatnonzero(~blank)
    if not len(usable):
        return []
    excess = np.zeros(len(sketch))
    # A second thread of BLAS would wait more than it computes: looking would cost 5 % more CPU time.
    with threadpool_limits(1, user_api="blas"):
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


def _row(row: int | str, archive: str, picture: str) -> str:
    return f"row {row} of {archive}{f' ({picture})' if picture else ''}"


def _log(images: Sequence[Finding], classes: Sequence[ClassFinding]) -> None:
    first: dict[Kind, str] = {}
    for each in images:
        pair = f" and {_row(each.other_row, each.other_archive, each.other_picture)}" if each.other_archive else ""
        first.setdefault(each.finding, f"{_row(each.row, each.archive, each.picture)}{pair}")
    for other in classes:
        first.setdefault(other.finding, f"class {other.name}: {other.detail}")
    for kind, number in count([*images, *classes]).items():
        if number:
            log.warning("prepare: %s: %s, first: %s", WORDS[kind], f"{number:,}", first[kind])
