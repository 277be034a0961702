"""Validation: every row of the split once, shared among the ranks, summed exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.train.compute.collective import Collective
from jobs.train.data.feed import ShardStore
from jobs.train.data.order import share

_BATCH = 500  # rows of a forward pass

Evaluate = Callable[[NDArray[Any], NDArray[Any]], tuple[int, float]]


class Validation:
    """The validation split, and how to evaluate on it."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store

    def run(
        self, evaluate: Evaluate, collective: Collective, progressed: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Return accuracy, errors, mean loss and count over the whole split; None for each where it has no rows.

        `progressed`: called after each batch.
        """
        count = sum(self._store.shard_rows)
        if not count:
            return {"accuracy": None, "errors": None, "loss": None, "count": 0}
        mine = np.arange(*share(count, collective.rank, collective.world_size))
        right, loss = 0, 0.0
        for rows in self._store.read([mine[i : i + _BATCH] for i in range(0, len(mine), _BATCH)]):
            batch_right, batch_loss = evaluate(rows.images, rows.labels)
            right, loss = right + batch_right, loss + batch_loss
            progressed()
        sums = collective.gather(np.array([[right, loss]], np.float64)).sum(axis=0)
        errors = count - int(sums[0])
        return {"accuracy": 1 - errors / count, "errors": errors, "loss": float(sums[1]) / count, "count": count}
