"""What one graph call trains on. A call runs several steps without returning to Python: Keras's `steps_per_execution`.

The plan of an epoch's calls is arithmetic; `read_epochs` fills it with rows, read ahead of the training.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.train.data.order import RowOrder
from jobs.train.data.prefetch import read_ahead
from jobs.train.data.reader import Rows
from jobs.train.data.shard_cache import ShardStore

# Bytes of images in a graph call. Up to five calls' rows are in memory: two that are ready, one in preparation, the one
# that runs, and the one before it, which TensorFlow still holds.
_CALL_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """Steps [first, last) of an epoch, all on global batches of one size.

    `first_step`: the same as `first`, counted over the whole training. `measured`: measure after the last step.
    """

    first: int
    last: int
    first_step: int
    measured: bool


@dataclass(frozen=True, kw_only=True)
class GraphCall:
    """The rows of one rank for k consecutive steps, n rows in each.

    `images`: [k, n, values], float32 in [0, 1] or uint8 as stored. `labels`: int32 [k, n]. `weights`: float32 [k, n],
    1, or 0 for a stand-in row. `indices`: int64 [rows], the archive rows trained on. The rank has rows [first_row,
    first_row + n) of global batches of `global_rows` rows. `measured`: measure after the last step.

    A rank without a row in a small last batch still takes part in the step, with one stand-in row of weight 0.
    """

    first_step: int
    images: NDArray[Any]
    labels: NDArray[Any]
    weights: NDArray[Any]
    indices: NDArray[Any]
    first_row: int
    global_rows: int
    measured: bool = True

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.images)

    @property
    def end_step(self) -> int:
        """The number of updates done after this call."""
        return self.first_step + self.steps


def max_steps_per_execution(order: RowOrder, *, image_bytes: int, world_size: int) -> int:
    """Return the most steps in a graph call, at least 1. `image_bytes`: of an image in memory."""
    return max(1, _CALL_BYTES // (image_bytes * -(-order.batch_size // world_size)))


def plan_calls(
    order: RowOrder, epoch: int, start: int, stop: int, log_every: int, max_steps: int
) -> Iterator[PlannedCall]:
    """Cut those of the training's steps [start, stop) that are in an epoch into graph calls.

    A measurement comes at multiples of `log_every`, before a smaller last batch, and at the end of the epoch. The
    multiples count over the whole training, so that a resumed one measures at the same steps. One call spans the steps
    between two measurements; where they are more than `max_steps`, several calls of about the same length do.
    """
    base = epoch * order.steps
    full = base + order.full_steps
    begin, last = max(start, base), min(stop, base + order.steps)
    while begin < last:
        measured = (begin // log_every + 1) * log_every
        end = min(measured, full if begin < full else last, last)
        calls = -(-(end - begin) // max_steps)
        cuts = [begin + (end - begin) * n // calls for n in range(calls + 1)]
        for a, b in pairwise(cuts):
            yield PlannedCall(first=a - base, last=b - base, first_step=a, measured=b == end)
        begin = end


def read_epochs(
    store: ShardStore,
    order: RowOrder,
    epochs: Iterable[tuple[int, Iterable[PlannedCall]]],
    rank: int,
    world_size: int,
) -> Generator[GraphCall, None, None]:
    """Yield the graph calls of consecutive epochs for one rank. `epochs`: the number of each, and its planned calls.

    A thread reads ahead, also into the next epoch: its first shuffle window is read while the training still has the
    last calls of the epoch before, whose shards are no longer in memory.
    """
    return read_ahead(
        call for epoch, planned in epochs for call in read_epoch(store, order, epoch, planned, rank, world_size)
    )


def read_epoch(
    store: ShardStore, order: RowOrder, epoch: int, planned: Iterable[PlannedCall], rank: int, world_size: int
) -> Iterator[GraphCall]:
    """Yield an epoch's graph calls for one rank."""
    calls, again = tee(planned)
    plan = order.epoch(epoch).read_plan(((call.first, call.last) for call in again), rank, world_size)
    for call, rows in zip(calls, store.read(plan), strict=True):
        global_rows = order.batch_rows(call.first)
        yield _graph_call(call, rows, global_rows, *order.share(global_rows, rank, world_size))


def _graph_call(planned: PlannedCall, rows: Rows, global_rows: int, first_row: int, end_row: int) -> GraphCall:
    """Shape a rank's rows, [first_row, end_row) of each global batch; add the stand-in row if it has none."""
    steps = planned.last - planned.first
    images, labels, weights = rows.images, rows.labels, np.ones(len(rows.labels), np.float32)
    if first_row == end_row:
        first_row = min(first_row, global_rows - 1)
        images = np.zeros((steps, images.shape[1]), images.dtype)
        labels, weights = np.zeros(steps, np.int32), np.zeros(steps, np.float32)
    return GraphCall(
        first_step=planned.first_step,
        images=images.reshape(steps, -1, images.shape[1]),
        labels=labels.reshape(steps, -1),
        weights=weights.reshape(steps, -1),
        indices=rows.indices,
        first_row=first_row,
        global_rows=global_rows,
        measured=planned.measured,
    )
