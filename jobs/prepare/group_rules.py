"""Which groups of rows are held out whole, so that the classes keep their proportions.

As in scikit-learn's StratifiedGroupKFold, one group after another goes where it leaves the classes most even. Like the
rules for rows, these depend on the archive, its groups and their own arguments alone, not on the seed of the training.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.row_rules import Rows, Rule, mixed


@dataclass(frozen=True, kw_only=True)
class GroupCounts:
    """The rows of each class in each group, without zeros: those of group g are at [starts[g], starts[g + 1]).

    `starts`: [groups + 1]. `numbers`: of classes; `rows`: of that class and group. All integers.
    """

    starts: NDArray[Any]
    numbers: NDArray[Any]
    rows: NDArray[Any]

    @property
    def sizes(self) -> NDArray[Any]:
        """The rows of each group: int64 [groups]."""
        return np.diff(np.concatenate([[0], np.cumsum(self.rows, dtype=np.int64)])[self.starts])

    @property
    def by_class(self) -> NDArray[Any]:
        """The rows of each class: int64 [classes], up to the last that has one."""
        return np.bincount(self.numbers, self.rows).astype(np.int64)

    def of(self, group: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the numbers of a group's classes, and its rows of each."""
        here = slice(self.starts[group], self.starts[group + 1])
        return self.numbers[here], self.rows[here]

    def largest_first(self, salt: int) -> Iterator[int]:
        """Yield the groups that have rows, the largest first, and those of one size in the order of a hash."""
        sizes = self.sizes
        order = np.argsort(mixed(np.arange(len(sizes)), salt), kind="stable")
        order = order[np.argsort(-sizes[order], kind="stable")]
        yield from order[sizes[order] > 0].tolist()


def count_groups(blocks: Iterable[Rows], groups: int, classes: int) -> GroupCounts:
    """Count the rows of each class in each of `groups` groups. Memory grows with the pairs of both that occur."""
    from scipy.sparse import csr_array

    total = csr_array((groups, classes), dtype=np.int64)
    for each in blocks:
        ones = np.ones(len(each), np.int64)
        total += csr_array((ones, (each.groups, each.numbers)), shape=(groups, classes))
    total.sort_indices()
    return GroupCounts(starts=total.indptr, numbers=total.indices, rows=total.data)


def of_groups(chosen: NDArray[Any]) -> Rule:
    """Hold out the rows of groups. `chosen`: bool [groups]."""

    def rule(rows: Rows) -> NDArray[Any]:
        return chosen[rows.groups]

    return rule


def choose_groups(counts: GroupCounts, total: int, salt: int) -> NDArray[Any]:
    """Choose groups that have about `total` rows, and about the same share of each class: bool [groups].

    At least two groups must have rows. One of them is not chosen and, unless `total` is 0, one is. Each group is
    chosen if the chosen rows then deviate less from their share of all groups so far: in d²/n, summed over the
    classes and all rows together, where d is the difference and n the rows of all groups.
    """
    sizes, by_class = counts.sizes, counts.by_class
    chosen = np.zeros(len(sizes), bool)
    if not total:
        return chosen
    share = total / int(sizes.sum())
    # Python's numbers: their sums are the same on every machine. `excess`: of the chosen rows, and last of all rows.
    weights = [*(1 / max(1, rows) for rows in by_class.tolist()), 1 / int(sizes.sum())]
    excess = [0.0] * len(weights)
    ordered = list(counts.largest_first(salt))
    for group in ordered:
        numbers, rows = counts.of(group)
        added = [*zip(numbers.tolist(), rows.tolist(), strict=True), (len(by_class), int(sizes[group]))]
        # The sum of d²/n with the group less the sum without it.
        growth = sum(weights[c] * n * (2 * excess[c] + (1 - 2 * share) * n) for c, n in added)
        chosen[group] = growth < 0
        for c, n in added:
            excess[c] += (int(growth < 0) - share) * n
    smallest = ordered[-1]
    if not chosen.any() or chosen[ordered].all():
        chosen[smallest] = not chosen[smallest]
    return chosen


def fold_of_groups(counts: GroupCounts, folds: int, salt: int) -> NDArray[Any]:
    """Return the fold, from 0, of each group: int64 [groups].

    A group goes to the fold with the fewest rows of its classes: the one where the sum of d²/n over the classes and
    all rows together, see `choose_groups`, grows least.
    """
    sizes, by_class = counts.sizes, counts.by_class
    weights = np.append(1 / np.maximum(by_class, 1), 1 / max(1, int(sizes.sum())))
    loads = np.zeros((folds, len(weights)), np.int64)
    fold_of = np.zeros(len(sizes), np.int64)
    for group in counts.largest_first(salt):
        numbers, rows = counts.of(group)
        used, added = np.append(numbers, len(by_class)), np.append(rows, sizes[group])
        growth = loads[:, used] * (added * weights[used])
        fold = int(np.argmin([fsum(each) for each in growth]))  # exact sums: the same on every machine
        fold_of[group] = fold
        loads[fold, used] += added
    return fold_of
