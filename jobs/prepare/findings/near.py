"""Pairs of images that are nearly the same, among all images of a dataset, in time that is linear but for a sort.

Banded locality-sensitive hashing (Datar et al., "Locality-sensitive hashing scheme based on p-stable distributions",
2004): 16 bands of 12 quantized projections each. Two images are compared if some band is equal in both. Of a bucket of
a band, each image is compared with the next few only, so a thousand copies cost no million comparisons. Then two tests:
the distance of the sketches, and, for the nearest pairs that are left, the distance of the pictures themselves.

The distance of two pictures is that of their pixels, each centered and scaled to length 1: d² = 2 (1 − correlation).
Cells are 26 steps wide, so a band is equal with probability (1 − 0.98 d)^12 for small d: a pair at distance 0.05, 0.1
is compared with probability 1.00, 0.99. A shifted, rotated or mirrored copy is another picture, and is not found.

The bands are searched one after another, so that memory is about 120 bytes a row, beside the pairs that are kept.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.parallel import map_ahead
from jobs.prepare.findings.sketch import PROJECTIONS, STEPS
from jobs.prepare.mapped import take
from jobs.progress import Progress

# A correlation of 0.995.
NEAR = 0.1
_BANDS = 16
_WIDTH = PROJECTIONS // _BANDS
_CELL = 26  # steps
_NEXT = 16  # images of a bucket that each is compared with
_ESTIMATE = 1.25  # of the distance: sketches are this inexact, at most (5 standard errors)
_ROUGH = PROJECTIONS // 3  # of a sketch, which are held in memory
_ROUGH_ESTIMATE = 1.45  # as _ESTIMATE, of these
_MOST_PARTNERS = 2  # of a row on each side: see `nearest`
_ROUNDING = 0.02  # of the distance, by int8
_BLOCK = 1 << 16  # pairs at a time: limits the memory


def candidates(projections: NDArray[Any], rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield pairs of rows, int64 [n, 2] with first < second, whose sketches are near. A pair may come several times.

    `projections`: int8 [all rows, 192]. `rows`: those to compare, increasing int64, of images with contrast.
    """
    rough = take(projections[:, :_ROUGH], slice(None))

    def sort(band: int) -> tuple[NDArray[Any], NDArray[Any]]:
        keys = _band_keys(projections, rows, band)
        order = np.argsort(keys, kind="stable")
        return order, keys[order]

    with Progress("prepare: comparing images", _BANDS, "bands") as progress:
        # One thread sorts the next bands while this one compares: NumPy lets both run.
        for band, (order, ordered) in enumerate(map_ahead(sort, range(_BANDS), 1)):
            for pairs in _in_band(order, ordered):
                yield _near(projections, rough, rows[pairs])
            progress.update(band + 1)


def _in_band(order: NDArray[Any], ordered: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the pairs that a band's keys make, by their positions, int64 [n, 2] with first < second: a block at a time.

    `order`: sorts the keys, stably. `ordered`: the keys in this order. Most pairs are far apart, so they are filtered
    before the next block comes.
    """
    for distance in range(1, min(_NEXT, len(ordered) - 1) + 1):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            break
        for start in range(0, len(same), _BLOCK):
            first = same[start : start + _BLOCK]
            yield np.stack([order[first], order[first + distance]], axis=1)


def nearest(projections: NDArray[Any], pairs: Iterable[NDArray[Any]], is_test: NDArray[Any], most: int) -> NDArray[Any]:
    """Return those of the pairs that are among the nearest two of one of their rows: at most 6 for each row.

    The nearest two are of the later and of the earlier partners, and of training and of test partners, each for itself:
    these decide which row of a pair is a finding. So the number of pairs that are compared pixel by pixel is
    proportional to the rows, even if all are copies. Of more than `most`, the nearest are returned, sorted by rows.
    `pairs`: pieces, int64 [n, 2]. `is_test`: bool [all rows].
    """
    kept, waiting, size = np.empty((0, 2), np.int64), [], 0
    for piece in pairs:
        waiting.append(piece)
        size += len(piece)
        if size >= max(most, len(kept)):  # seldom, as each reduction sorts
            kept, waiting, size = _reduced(projections, [kept, *waiting], is_test, most), [], 0
    return _reduced(projections, [kept, *waiting], is_test, most)


def _reduced(projections: NDArray[Any], pieces: list[NDArray[Any]], is_test: NDArray[Any], most: int) -> NDArray[Any]:
    """Return the nearest of some pairs. Those of the nearest of several pieces are those of the pieces themselves."""
    pairs = _unique(np.concatenate(pieces))
    distances = _sketch_distances(projections, pairs)
    kept = np.zeros(len(pairs), bool)
    for rows, partners in (pairs.T, pairs.T[::-1]):
        side = 2 * rows + is_test[partners]
        order = np.lexsort((partners, distances, side))
        ordered = side[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept[order[rank < _MOST_PARTNERS]] = True
    chosen = np.flatnonzero(kept)
    if len(chosen) > most:
        chosen = np.sort(chosen[np.argsort(distances[chosen], kind="stable")[:most]])
    return pairs[chosen]


def _unique(pairs: NDArray[Any]) -> NDArray[Any]:
    """Return pairs sorted, each once."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    is_new = np.ones(len(pairs), bool)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[is_new]


def _near(projections: NDArray[Any], rough: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    """Return the pairs, at most a block, whose sketches are near. `rough`: a third of each, rules out most others."""
    for sketches, estimate in ((rough, _ROUGH_ESTIMATE), (projections, _ESTIMATE)):
        pairs = pairs[_sketch_distance(sketches, pairs) <= estimate * NEAR + _ROUNDING]
    return pairs


def _band_keys(projections: NDArray[Any], rows: NDArray[Any], band: int) -> NDArray[Any]:
    """Return a hash of the cells of each row in a band: uint32 [rows]."""
    random = np.random.default_rng(0xBA2D5)
    here = slice(band * _WIDTH, (band + 1) * _WIDTH)
    offsets = random.integers(0, _CELL, PROJECTIONS, dtype=np.int16)[here]
    factors = (random.integers(1, 2**32, PROJECTIONS, dtype=np.uint32) | np.uint32(1))[here]
    keys = np.empty(len(rows), np.uint32)
    of_band = projections[:, here]
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        cells = ((take(of_band, rows[block]).astype(np.int16) + offsets + 128) // _CELL).astype(np.uint32) * factors
        keys[block] = cells.sum(axis=1, dtype=np.uint32)
    return keys


def _sketch_distances(projections: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of the sketches of each pair, float [n]."""
    blocks = [_sketch_distance(projections, pairs[i : i + _BLOCK]) for i in range(0, len(pairs), _BLOCK)]
    return np.concatenate([np.empty(0), *blocks])


def _sketch_distance(projections: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    difference = take(projections, pairs[:, 0]).astype(np.int16) - take(projections, pairs[:, 1])
    squares = np.einsum("ij,ij->i", difference, difference, dtype=np.float32)
    return np.sqrt(squares / projections.shape[1]) / STEPS


def picture_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the distance of two pictures, given their values, float [values] each."""
    return float(np.linalg.norm(_unit(first) - _unit(second)))


def _unit(image: NDArray[Any]) -> NDArray[Any]:
    wide = image.astype(np.float64)
    wide -= wide.mean()
    return wide / max(float(np.linalg.norm(wide)), 1e-12)
