"""The order of training rows: a function of dataset, seed and global batch size alone.

It never depends on the number of ranks, hosts, reader threads or restarts. A sample order that any number of workers
can share is an idea of MosaicML Streaming. This one needs no divisibility: 50 rows on 3 ranks are 16, 17 and 17.

An epoch takes four steps:

1. Draw an order of the shards from (seed, epoch). It makes a stream of all rows.
2. Cut the stream into at most 8 lanes. Each batch takes its slots from all lanes, in proportion, so that it mixes rows
   from 8 distant positions of the stream.
3. Shuffle the rows of each lane in equal windows of a few shards' rows.
4. Give rank r of W the slots [⌊r b / W⌋, ⌊(r + 1) b / W⌋) of a batch of b rows. The slots of a lane are consecutive, so
   a rank reads about 1 / W of the shards. Batches computed in slices are shared in whole slices: see
   `jobs.train.compute.exact`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LANES = 8
_PURPOSE = 0x1D7  # separates these random streams from others of the same seed


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The order of every epoch. Shards are numbered as in the manifest, rows within a shard from 0.

    `shard_rows`: rows of each shard. `batch_size`: of the global batch. `shuffle_shards`: shards' rows in a shuffle
    window. `slices`: slices of each batch, of which a rank takes whole ones; None: a rank may take any rows.
    """

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle_shards: int
    slices: int | None = None

    @property
    def rows(self) -> int:
        """The rows of an epoch."""
        return sum(self.shard_rows)

    @property
    def steps(self) -> int:
        """The steps of an epoch; the last may have a smaller batch."""
        return -(-self.rows // self.batch_size)

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return min(_LANES, len(self.shard_rows), self.batch_size)

    def batch_rows(self, step: int) -> int:
        """Return the rows of a step's global batch, 0 ≤ step < steps, in any epoch."""
        return min(self.batch_size, self.rows - step * self.batch_size)

    def share(self, rows: int, rank: int, world_size: int) -> tuple[int, int]:
        """Return the bounds of a rank's rows in a global batch of `rows` rows."""
        if self.slices is None:
            return share(rows, rank, world_size)
        return share_slices(rows, rank, world_size, self.slices)

    def shards_of(self, rows: NDArray[Any]) -> int:
        """Return the number of shards that hold these rows."""
        return len(np.unique(locate(rows, self.shard_rows)[0]))

    def epoch(self, epoch: int) -> "Epoch":
        """Return one epoch: every row exactly once."""
        stream = self._stream(epoch)
        lanes = [self._shuffled(lane, epoch, n) for n, lane in enumerate(np.split(stream, self._lane_ends()[:-1]))]
        return Epoch(self, np.concatenate(list(self._deal(lanes))))

    def _stream(self, epoch: int) -> NDArray[Any]:
        """Return all rows, counted through all shards, shard after shard in the epoch's order: int64 [rows]."""
        starts = np.concatenate([[0], np.cumsum(self.shard_rows)])
        shards = self._random(epoch).permutation(len(self.shard_rows))
        return np.concatenate([np.arange(starts[s], starts[s + 1]) for s in shards])

    def _slots(self, batch: int) -> list[int]:
        """Return the bounds of the lanes' slots in a batch of `batch` rows: lanes + 1 integers."""
        return [lane * batch // self.lanes for lane in range(self.lanes + 1)]

    def _lane_ends(self) -> NDArray[Any]:
        """Return the end of each lane in the stream; a lane has the rows that its slots take in one epoch."""
        full, rest = divmod(self.rows, self.batch_size)
        return full * np.array(self._slots(self.batch_size)[1:]) + np.array(self._slots(rest)[1:])

    def _shuffled(self, lane: NDArray[Any], epoch: int, number: int) -> NDArray[Any]:
        # Equal windows, about as long as configured: a short last one would mix the end of each epoch badly.
        windows = max(1, round(len(lane) / (self.shuffle_shards * max(self.shard_rows))))
        random = self._random(epoch, number + 1)
        return np.concatenate([random.permutation(window) for window in np.array_split(lane, windows)])

    def _deal(self, lanes: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the full batches of an epoch, then the smaller last one."""
        full, rest = divmod(self.rows, self.batch_size)
        widths = [stop - start for start, stop in pairwise(self._slots(self.batch_size))]
        whole = [lane[: full * width].reshape(full, width) for lane, width in zip(lanes, widths, strict=True)]
        last = [lane[full * width :] for lane, width in zip(lanes, widths, strict=True)]
        return [np.concatenate(whole, axis=1).reshape(-1), np.concatenate(last)[:rest]]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([_PURPOSE, self.seed, *key])


@dataclass(frozen=True)
class Epoch:
    """The rows of one epoch, batch after batch. `rows`: int64 [rows], counted through all shards."""

    order: RowOrder
    rows: NDArray[Any]

    def batch(self, step: int) -> NDArray[Any]:
        """Return the rows of a step's global batch: int64 [batch_rows(step)]."""
        start = step * self.order.batch_size
        return self.rows[start : start + self.order.batch_rows(step)]

    def rank_rows(self, first_step: int, last_step: int, rank: int, world_size: int) -> NDArray[Any]:
        """Return the rows of one rank in steps [first_step, last_step), in order: int64 [n]."""
        batches = [self.batch(step) for step in range(first_step, last_step)]
        shares = [batch[slice(*self.order.share(len(batch), rank, world_size))] for batch in batches]
        return np.concatenate(shares) if shares else self.rows[:0]


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


def locate(rows: NDArray[Any], shard_rows: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the shard, and the row within it, of rows counted through all shards: int64 [n] each."""
    ends = np.cumsum(shard_rows)
    shards = np.searchsorted(ends, rows, side="right")
    return shards, rows - (ends - np.asarray(shard_rows))[shards]
