"""Look at all images of a dataset; write findings.csv, findings.json and data.html beside its manifest.

Executors sketch each shard; the driver compares the sketches, and reads the few images that are needed whole. The work
grows linearly with the rows, but for sorts. Sketches and digests stay in files, 240 bytes per row; the driver holds
about 180. What is kept of findings is bounded: see the constants. Of more than ten million rows only equal and constant
images and outliers are found, not near ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from jobs.dataset import Manifest
from jobs.logs import log
from jobs.prepare.findings import near
from jobs.prepare.findings.classes import class_findings
from jobs.prepare.findings.constant import constant_images
from jobs.prepare.findings.describe import describe
from jobs.prepare.findings.finding import CSV, KINDS, WORDS, ClassFinding, Finding, Kind, write
from jobs.prepare.findings.outliers import outliers
from jobs.prepare.findings.page import listed, pictured, write_page
from jobs.prepare.findings.pairs import Found, equal_images, near_images, of_images
from jobs.prepare.findings.rows import Images, Read, Rows, View, fetch, join

_MOST_COMPARED = 10_000_000  # rows
_MOST_PAIRS = 200_000  # that are compared pixel by pixel; of more, the nearest by their sketches
_MOST_LISTED = 100_000  # findings of a kind; all are counted
_MOST_OUTLIERS = 1000  # counted and listed: more are a property of the data, not a finding
_CHUNK_BYTES = 256 << 20  # of images that the driver holds at a time to compare pairs
_SKETCHES = "sketches"  # the folder of them in `scratch`


def look(
    directory: Path, manifest: Manifest, views: Iterable[View], digests: NDArray[Any], read: Read, scratch: Path
) -> None:
    """Write what is odd about a dataset into its folder, and log it. The same dataset gives the same bytes.

    `views`: of all shards, in order, taken one after another. `digests`: of all rows, as surveyed. `scratch`: a folder
    for 220 bytes per row.
    """
    rows = join(manifest, views, digests, scratch / _SKETCHES)
    flat = rows.is_flat
    equal = equal_images(rows.digests, rows.sketch.labels, rows.is_test, flat)
    constant = constant_images(rows.sketch, flat, manifest.values_per_image)
    blank = flat.copy()
    for each in constant:
        blank[each.rows] = True
    takes_part = ~blank
    for each in equal:
        takes_part[each.rows] = False
    far = _outliers(rows, blank)
    pairs = _near_pairs(rows, takes_part)
    get = partial(fetch, rows, read)
    alike, images = _verified(rows, pairs, pictured(rows, *equal, *constant, far), get, manifest.values_per_image)
    found = sorted([*equal, *alike, *constant, far], key=lambda each: KINDS.index(each.kind))
    classes = list(class_findings(manifest))
    words = partial(describe, directory, manifest, rows)
    counts = _counts(found, classes)
    write(directory, words(chain.from_iterable(each.first(_MOST_LISTED) for each in found)), classes, counts)
    shown = [listed(each, words) for each in found]
    write_page(directory, manifest, rows, shown, classes, images)
    _log({each.kind: each.items[0][1] for each in shown if each.items}, classes, counts)


def _counts(found: Iterable[Found], classes: Iterable[ClassFinding]) -> dict[Kind, int]:
    """Return the number of findings of each kind, zeros included."""
    counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for each in found:
        counts[each.kind] += len(each)
    for other in classes:
        counts[other.finding] += 1
    return counts


def _near_pairs(rows: Rows, takes_part: NDArray[Any]) -> NDArray[Any]:
    """Return pairs of rows that may be nearly equal, int64 [n, 2]. Copies and blank images take no part."""
    projections = rows.sketch.projections
    if len(projections) > _MOST_COMPARED:
        log.warning("prepare: near duplicates are not searched in more than %s rows", f"{_MOST_COMPARED:,}")
        return np.empty((0, 2), np.int64)
    pairs = near.candidates(projections, np.flatnonzero(takes_part))
    differ = (each[rows.digests[each[:, 0]] != rows.digests[each[:, 1]]] for each in pairs)
    nearest = near.nearest(projections, differ, rows.is_test, _MOST_PAIRS)
    if len(nearest) == _MOST_PAIRS:
        log.warning("prepare: only the nearest %s pairs are searched for near duplicates", f"{_MOST_PAIRS:,}")
    return nearest


def _verified(
    rows: Rows, pairs: NDArray[Any], wanted: list[int], get: Callable[[list[int]], Images], values: int
) -> tuple[Sequence[Found], Images]:
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
        images.clear()  # before the next ones are fetched
        images = get([*chunk.reshape(-1).tolist(), *(wanted if is_last else [])])
        apart = np.array([near.picture_distance(images[first], images[second]) for first, second in chunk.tolist()])
        kept.append(chunk[apart <= near.NEAR])
        distances.append(apart[apart <= near.NEAR])
    found = near_images(np.concatenate(kept), np.concatenate(distances), rows.sketch.labels, rows.is_test)
    if missing := [row for row in pictured(rows, *found) if row not in images]:  # of other chunks than the last
        images |= get(missing)
    return found, images


def _outliers(rows: Rows, blank: NDArray[Any]) -> Found:
    """Return the outliers, with their distance over the limit; the farthest if there are many."""
    # A second thread of BLAS would wait more than it computes: looking would cost 5 % more CPU time.
    with threadpool_limits(1, user_api="blas"):
        far, excess = outliers(rows.sketch, np.flatnonzero(~blank))
    return of_images("outlier", far[:_MOST_OUTLIERS], excess[:_MOST_OUTLIERS])


def _row(row: int | str, archive: str, picture: str) -> str:
    return f"row {row} of {archive}{f' ({picture})' if picture else ''}"


def _log(images: Mapping[Kind, Finding], classes: Sequence[ClassFinding], counts: Mapping[Kind, int]) -> None:
    """Log how many findings there are of each kind. `images`: the first of each kind."""
    first: dict[Kind, str] = {}
    for kind, each in images.items():
        pair = f" and {_row(each.other_row, each.other_archive, each.other_picture)}" if each.other_archive else ""
        first[kind] = f"{_row(each.row, each.archive, each.picture)}{pair}"
    for other in classes:
        first.setdefault(other.finding, f"class {other.name}: {other.detail}")
    for kind, number in counts.items():
        if number:
            log.warning("prepare: %s: %s, first: %s", WORDS[kind], f"{number:,}", first[kind])
        if number > _MOST_LISTED:
            log.warning("prepare: %s lists the first %s of them", CSV, f"{_MOST_LISTED:,}")
