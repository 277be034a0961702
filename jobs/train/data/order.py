"""The order of training rows: a function of dataset, seed and global batch size alone.

It never depends on the number of ranks, hosts, reader threads or restarts. A sample order that any number of workers
can share is an idea of MosaicML Streaming. This one needs no divisibility: 50 rows on 3 ranks are 16, 17 and 17.

An epoch takes four steps:

1. Draw an order of the shards from (seed, epoch). It makes a stream of all rows.
2. Cut the stream into lanes: 8, or one for each 128 rows of a larger batch. Each batch takes its slots from all lanes,
   in proportion, so that it mixes rows from distant positions of the stream.
3. Cut each lane into equal windows of a few shards' rows. Shuffle each window by (seed, epoch, lane, window).
4. Give rank r of W the slots [⌊r b / W⌋, ⌊(r + 1) b / W⌋) of a batch of b rows. The slots of a lane are consecutive, so
   a rank reads about 1 / W of the shards, and never less than a lane. Batches computed in slices are shared in whole
   slices: see `jobs.train.compute.exact`.

Bounds of lanes and windows are arithmetic, and any window is drawn alone: see `jobs.train.data.epoch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jobs.train.data.epoch import Epoch

_LANES = 8  # at least, if there are as many shards and rows in a batch
_LANE_ROWS = 128  # rows of a large batch in one lane: more ranks than lanes would read each shard several times
_PURPOSE = 0x1D7  # separates these random streams from others of the same seed


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The order of every epoch. Shards are numbered as in the manifest, rows within a shard from 0.

    `shard_rows`: rows of each shard. `batch_size`: of the global batch. `shuffle_shards`: shards' rows in a shuffle
    window of 8 lanes; windows of more lanes are smaller, so that all windows together stay as large, down to a shard.
    `slices`: slices of each batch, of which a rank takes whole ones; None: a rank may take any rows.
    """

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle_shards: int
    slices: int | None = None

    @cached_property
    def starts(self) -> NDArray[Any]:
        """The first row of each shard, counted through all shards, then the number of rows: int64 [shards + 1]."""
        return shard_starts(self.shard_rows)

    @property
    def rows(self) -> int:
        """The rows of an epoch."""
        return int(self.starts[-1])

    @property
    def full_steps(self) -> int:
        """The steps of an epoch on full batches: all, or all but the last."""
        return self.rows // self.batch_size

    @property
    def steps(self) -> int:
        """The steps of an epoch; the last may have a smaller batch."""
        return -(-self.rows // self.batch_size)

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return min(max(_LANES, self.batch_size // _LANE_ROWS), len(self.shard_rows), self.batch_size)

    def batch_rows(self, step: int) -> int:
        """Return the rows of a step's global batch, 0 ≤ step < steps, in any epoch."""
        return min(self.batch_size, self.rows - step * self.batch_size)

    def share(self, rows: int, rank: int, world_size: int) -> tuple[int, int]:
        """Return the bounds of a rank's rows in a global batch of `rows` rows."""
        if self.slices is None:
            return share(rows, rank, world_size)
        return share_slices(rows, rank, world_size, self.slices)

    def slots(self, batch: int) -> list[int]:
        """Return the bounds of the lanes' slots in a batch of `batch` rows: lanes + 1 integers."""
        return [lane * batch // self.lanes for lane in range(self.lanes + 1)]

    @cached_property
    def lane_bounds(self) -> list[int]:
        """The bounds of the lanes in the stream, lanes + 1 integers: a lane has the rows of its slots in one epoch."""
        rest = self.rows % self.batch_size
        full, last = self.slots(self.batch_size), self.slots(rest)
        return [self.full_steps * a + b for a, b in zip(full, last, strict=True)]

    @cached_property
    def windows(self) -> list[int]:
        """The number of windows of each lane.

        They are equal and about as long as configured: a short last one would mix the end of each epoch badly.
        """
        size = -(-self.shuffle_shards * _LANES // max(_LANES, self.lanes)) * max(self.shard_rows)
        bounds = self.lane_bounds
        return [max(1, round((bounds[lane + 1] - bounds[lane]) / size)) for lane in range(self.lanes)]

    def window_at(self, lane: int, position: Any) -> Any:
        """Return the window of a position, or int64 array of positions, in a lane; both are counted from 0."""
        rows = self.lane_bounds[lane + 1] - self.lane_bounds[lane]
        return (self.windows[lane] * (position + 1) - 1) // rows

    def window_bounds(self, lane: int, window: Any) -> Any:
        """Return the first position, in its lane, of a window or int64 array of windows."""
        return (self.lane_bounds[lane + 1] - self.lane_bounds[lane]) * window // self.windows[lane]

    def epoch(self, epoch: int) -> "Epoch":
        """Return one epoch: every row exactly once. Takes time and memory for the shards, not for the rows."""
        from jobs.train.data.epoch import Epoch

        return Epoch(self, epoch)

    def random(self, *key: int) -> np.random.Generator:
        """Return a random stream of this seed: of an epoch's shards, key (epoch,), or of one of its windows."""
        return np.random.default_rng([_PURPOSE, self.seed, *key])


def share(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the bounds of a rank's share of `rows` rows; shares differ by at most one row."""
    return rows * rank // world_size, rows * (rank + 1) // world_size


def share_slices(rows: int, rank: int, world_size: int, slices: int) -> tuple[int, int]:
    """Return the bounds of a rank's share of `rows` rows in whole slices; slices are equal to ± 1 row.

    If the world size divides `slices`, the bounds are those of `share`. If rows are fewer than slices, each row is one.
    """
    slices = min(slices, rows)
    first, last = share(slices, rank, world_size)
    return rows * first // slices, rows * last // slices


def shard_starts(shard_rows: Sequence[int]) -> NDArray[Any]:
    """Return the first row of each shard, counted through all shards, then the number of rows: int64 [shards + 1]."""
    return np.concatenate([[0], np.cumsum(shard_rows, dtype=np.int64)])


def locate(rows: NDArray[Any], starts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the shard, and the row within it, of rows counted through all shards: int64 [n] each.

    `starts`: as from `shard_starts`.
    """
    shards = np.searchsorted(starts, rows, side="right") - 1
    return shards, rows - starts[shards]
