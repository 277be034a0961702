"""Which rows of a training archive are held out: rules that see the rows in blocks, in order, so any number fits.

Every rule is a function of the archive, the groups and its own arguments alone: no rule depends on the seed of the
training. A rule gets the rows it may choose from and returns a mask of those that it holds out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """A block of rows in archive order: `numbers` of their classes and `groups`, both int32 [n]."""

    numbers: NDArray[Any]
    groups: NDArray[Any]

    def __len__(self) -> int:
        return len(self.numbers)


Rule = Callable[[Rows], NDArray[Any]]


def mixed(values: NDArray[Any], salt: int) -> NDArray[Any]:
    """Return uint64 hashes of integers: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014) after the salt-th step.
    """
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(salt + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def by_position(kind: str, total: int, held_out: int) -> Rule:
    """Hold out the `first`, the `last` or evenly `spread` rows: of those, row i is row ⌊i · total / held_out⌋."""
    seen = 0

    def rule(rows: Rows) -> NDArray[Any]:
        nonlocal seen
        positions = np.arange(seen, seen + len(rows))
        seen += len(rows)
        if kind == "first":
            return positions < held_out
        if kind == "last":
            return positions >= total - held_out
        nearest = -(-positions * held_out // total)
        return (nearest < held_out) & (nearest * total // max(held_out, 1) == positions)

    return rule


class _Ranks:
    """The rank of each row within its class, from 0, over all blocks so far."""

    def __init__(self, classes: int) -> None:
        self._seen = np.zeros(classes, np.int64)

    def __call__(self, numbers: NDArray[Any]) -> NDArray[Any]:
        order = np.argsort(numbers, kind="stable")
        by_class = numbers[order]
        ranks = np.empty(len(numbers), np.int64)
        ranks[order] = np.arange(len(numbers)) - np.searchsorted(by_class, by_class)
        ranks += self._seen[numbers]
        self._seen += np.bincount(numbers, minlength=len(self._seen))
        return ranks


def stratified(labels: NDArray[Any], counts: NDArray[Any], quotas: NDArray[Any], salt: int) -> Rule:
    """Hold out exactly `quotas` rows of each class, spread over the archive.

    `labels`, `counts`, `quotas`: int64 [classes], the label, the rows and the rows to hold out of each class; quotas
    are below counts. A class is cut into as many equal runs of rows as its quota, and a hash picks one row of each:
    no pattern in the order of the rows can fall in step with it. MNIST has one: its even rows are of one series of
    writers, so that evenly spaced rows, each twelfth, are 97 % of that series, of 48 % in all.
    """
    ranks_of = _Ranks(len(counts))

    def rule(rows: Rows) -> NDArray[Any]:
        ranks, quota, count = ranks_of(rows.numbers), quotas[rows.numbers], counts[rows.numbers]
        run = ((ranks + 1) * quota - 1) // count
        start = run * count // np.maximum(quota, 1)
        size = (run + 1) * count // np.maximum(quota, 1) - start
        draw = mixed(mixed(labels[rows.numbers], salt) ^ run.astype(np.uint64), salt)
        return (quota > 0) & (ranks - start == (draw % np.maximum(size, 1).astype(np.uint64)).astype(np.int64))

    return rule


def stratified_fold(labels: NDArray[Any], counts: NDArray[Any], fold: int, folds: int, salt: int) -> Rule:
    """Hold out fold `fold` (from 0) of `folds`, which differ by at most one row, in all and in each class.

    Rows are numbered through the classes, and row p is in fold p mod K. Within a class, each K rows in a row are
    first rotated by a hash, so that no pattern in the archive falls in step with the folds.
    """
    ranks_of = _Ranks(len(counts))
    first = np.cumsum(counts) - counts

    def rule(rows: Rows) -> NDArray[Any]:
        ranks, count = ranks_of(rows.numbers), counts[rows.numbers]
        start = ranks // folds * folds
        size = np.minimum(count - start, folds)
        draw = mixed(mixed(labels[rows.numbers], salt) ^ start.astype(np.uint64), salt)
        rotated = start + (ranks - start + (draw % size.astype(np.uint64)).astype(np.int64)) % size
        return (first[rows.numbers] + rotated) % folds == fold

    return rule


def shares(counts: NDArray[Any], total: int) -> NDArray[Any]:
    """Return the rows to hold out of each class: int64 [classes], in sum `total`, or less if the classes have less.

    Each class gives its share, by the largest remainder, and keeps at least one row. What a class cannot give without
    losing its last row, the others give. `counts`: the rows of each class, int64 [classes].
    """
    most = np.maximum(counts - 1, 0)
    taken = np.zeros_like(counts)
    while left := min(total, int(most.sum())) - int(taken.sum()):
        room = most - taken
        weights = np.where(room > 0, counts, 0)
        quota, remainder = np.divmod(left * weights, weights.sum())
        given = np.minimum(quota, room)
        able = np.flatnonzero(given < room)
        largest = able[np.argsort(-remainder[able], kind="stable")]
        given[largest[: left - int(quota.sum())]] += 1
        taken += given
    return taken
