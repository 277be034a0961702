"""Pairs of images that are nearly the same, among all images of a dataset, in time that is linear but for a sort.

Banded locality-sensitive hashing (Datar et al., "Locality-sensitive hashing scheme based on p-stable distributions",
2004): 16 bands of 12 quantized projections each. Two images are compared if some band is equal in both. Of a bucket of
a band, each image is compared with the next few only, so a thousand copies cost no million comparisons. Then two tests:
the distance of the sketches, and, for the nearest pairs that are left, the distance of the pictures themselves.

The distance of two pictures is that of their pixels, each centered and scaled to length 1: d² = 2 (1 − correlation).
Cells are 26 steps wide, so a band is equal with probability (1 − 0.98 d)^12 for small d: a pair at distance 0.05, 0.1
is compared with probability 1.00, 0.99. A shifted, rotated or mirrored copy is another picture, and is not found.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.findings.sketch import PROJECTIONS, STEPS

# A correlation of 0.995.
NEAR = 0.1
_BANDS = 16
_CELL = 26  # steps
_NEXT = 16  # images of a bucket that each is compared with
_ESTIMATE = 1.25  # of the distance: sketches are this inexact, at most (5 standard errors)
_ROUGH_ESTIMATE = 1.45  # the same of a third of it
_MOST_PARTNERS = 2  # of a row on each side: see `nearest`
_ROUNDING = 0.02  # of the distance, by int8
_BLOCK = 1 << 16  # pairs at a time: limits the memory


def candidates(projections: NDArray[Any]) -> NDArray[Any]:
    """Return pairs of rows, int64 [n, 2] with first < second, sorted, whose sketches are near.

    `projections`: int8 [rows, 192], of images with contrast.
    """
    rows = len(projections)
    codes = [_in_band(keys) for keys in _band_keys(projections).T]
    pairs = np.unique(np.concatenate([first * rows + second for first, second in codes]))
    pairs = np.stack([pairs // max(rows, 1), pairs % max(rows, 1)], axis=1)
    # Most pairs of a bucket are far apart, which a third of the projections shows.
    for used, estimate in ((PROJECTIONS // 3, _ROUGH_ESTIMATE), (PROJECTIONS, _ESTIMATE)):
        part = projections[:, :used]
        pairs = pairs[_sketch_distances(part, pairs) <= estimate * NEAR + _ROUNDING]
    return pairs


def nearest(projections: NDArray[Any], pairs: NDArray[Any], is_test: NDArray[Any]) -> NDArray[Any]:
    """Return those of the pairs that are among the nearest two of one of their rows: at most 6 for each row.

    The nearest two are of the later and of the earlier partners, and of training and of test partners, each for itself:
    these decide which row of a pair is a finding. `pairs`: of `candidates`. `is_test`: bool [rows]. So the number of
    pairs that are compared pixel by pixel is proportional to the rows, even if all are copies.
    """
    distances = _sketch_distances(projections, pairs)
    kept = np.zeros(len(pairs), bool)
    for rows, partners in (pairs.T, pairs.T[::-1]):
        side = 2 * rows + is_test[partners]
        order = np.lexsort((partners, distances, side))
        ordered = side[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept[order[rank < _MOST_PARTNERS]] = True
    return pairs[kept]


def _band_keys(projections: NDArray[Any]) -> NDArray[Any]:
    """Return a hash of each band's cells: uint32 [rows, bands]."""
    random = np.random.default_rng(0xBA2D5)
    offsets = random.integers(0, _CELL, PROJECTIONS, dtype=np.int16)
    factors = random.integers(1, 2**32, PROJECTIONS, dtype=np.uint32) | np.uint32(1)
    keys = np.empty((len(projections), _BANDS), np.uint32)
    for start in range(0, len(projections), _BLOCK):
        block = slice(start, start + _BLOCK)
        cells = ((projections[block].astype(np.int16) + offsets + 128) // _CELL).astype(np.uint32) * factors
        keys[block] = cells.reshape(len(cells), _BANDS, -1).sum(axis=2, dtype=np.uint32)
    return keys


def _in_band(keys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return first and second row, first < second, of the pairs that a band's keys make: int64 [n] each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first, second = [], []
    for distance in range(1, min(_NEXT, len(keys) - 1) + 1):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            break
        first.append(order[same])
        second.append(order[same + distance])
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *first]), np.concatenate([empty, *second])


def _sketch_distances(projections: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of the sketches of each pair, float [n]."""
    blocks = [_sketch_distance(projections, pairs[i : i + _BLOCK]) for i in range(0, len(pairs), _BLOCK)]
    return np.concatenate([np.empty(0), *blocks])


def _sketch_distance(projections: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    difference = projections[pairs[:, 0]].astype(np.int16) - projections[pairs[:, 1]]
    squares = np.einsum("ij,ij->i", difference, difference, dtype=np.float32)
    return np.sqrt(squares / projections.shape[1]) / STEPS


def picture_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the distance of two pictures, given their values, float [values] each."""
    return float(np.linalg.norm(_unit(first) - _unit(second)))


def _unit(image: NDArray[Any]) -> NDArray[Any]:
    wide = image.astype(np.float64)
    wide -= wide.mean()
    return wide / max(float(np.linalg.norm(wide)), 1e-12)
