"""Validation: every row of the split once, shared among the ranks, counted exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jobs.train.compute.collective import Collective
from jobs.train.compute.evaluator import Evaluate
from jobs.train.data.order import share
from jobs.train.data.shard_cache import ShardStore

_BATCH = 500  # rows of a forward pass


class Validation:
    """The validation split, and how to evaluate a model on it."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store

    def run(
        self, evaluate: Evaluate, collective: Collective, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Return accuracy, errors, mean loss and count over the whole split; all but the count are None if it is empty.

        `on_batch`: called after each batch.
        """
        count = sum(self._store.shard_rows)
        if not count:
            return {"accuracy": None, "errors": None, "loss": None, "count": 0}
        rows_here = np.arange(*share(count, collective.rank, collective.world_size))
        correct, loss = 0, 0.0
        for batch in self._store.read([rows_here[i : i + _BATCH] for i in range(0, len(rows_here), _BATCH)]):
            batch_correct, batch_loss = evaluate(batch.images, batch.labels)
            correct, loss = correct + batch_correct, loss + batch_loss
            on_batch()
        sums = collective.gather(np.array([[correct, loss]], np.float64)).sum(axis=0)
        errors = count - int(sums[0])
        return {"accuracy": 1 - errors / count, "errors": errors, "loss": float(sums[1]) / count, "count": count}
