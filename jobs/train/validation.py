"""Validation: every row of the split once, shared among the ranks, counted exactly.

Which epoch is best, and so which model is saved, depends on it. In a deterministic training its figures have the same
bits at any number of ranks: as in training, a rank takes whole slices, and the sums do not depend on their order.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.train.compute.collective import Collective
from jobs.train.compute.evaluator import Evaluate
from jobs.train.data.order import share
from jobs.train.data.read_plan import consecutive
from jobs.train.data.shard_cache import ShardStore

_BATCH = 500  # rows of a forward pass
MOST_CLASSES = 64  # of a confusion matrix that is drawn
_LOSS_SCALE = 2.0**20  # a batch's loss is rounded to a multiple of 1 / this; float64 adds such numbers exactly


class Validation:
    """The validation split, and how to evaluate a model on it.

    `confusion`: of the last validation, int64 [classes, classes]: rows true, columns predicted. None before the first
    one, and where there are more than 64 classes or none are counted.
    """

    def __init__(self, store: ShardStore, slices: int | None = None, classes: int = 0) -> None:
        """`slices`: of the split, of which a rank takes whole ones; None: a rank may take any rows.

        `classes`: for the confusion matrix; 0: it is not counted.
        """
        self._store, self._slices = store, slices
        self._classes = classes if classes <= MOST_CLASSES else 0
        self.confusion: NDArray[Any] | None = None

    def run(
        self, evaluate: Evaluate, collective: Collective, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Return accuracy, errors, mean loss and count over the whole split; all but the count are None if it is empty.

        `on_batch`: called after each batch.
        """
        count = int(self._store.starts[-1])
        if not count:
            return {"accuracy": None, "errors": None, "loss": None, "count": 0}
        correct, loss, classes = 0, 0.0, self._classes
        confusion = np.zeros(classes * classes)
        batches = self._batches(count, collective.rank, collective.world_size)
        for batch in self._store.read(consecutive(batches, _BATCH, self._store.starts)):
            predicted, batch_loss = evaluate(batch.images, batch.labels)
            correct += int((predicted == batch.labels).sum())
            loss += np.rint(batch_loss * _LOSS_SCALE)
            if classes:
                confusion += np.bincount(batch.labels * classes + predicted, minlength=len(confusion))
            on_batch()
        sums = collective.gather(np.array([[correct, loss, *confusion]], np.float64)).sum(axis=0)
        if classes:
            self.confusion = sums[2:].reshape(classes, classes).astype(np.int64)
        errors, loss = count - int(sums[0]), float(sums[1]) / _LOSS_SCALE / count
        return {"accuracy": 1 - errors / count, "errors": errors, "loss": loss, "count": count}

    def _batches(self, count: int, rank: int, world_size: int) -> Iterator[tuple[int, int]]:
        """Yield the bounds of the rows of each forward pass of a rank."""
        bounds = [share(count, rank, world_size)]
        if self._slices is not None:
            slices = min(self._slices, count)
            bounds = [share(count, n, slices) for n in range(*share(slices, rank, world_size))]
        for first, last in bounds:
            yield from ((i, min(i + _BATCH, last)) for i in range(first, last, _BATCH))
