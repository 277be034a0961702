"""The order of training rows: a function of (dataset, seed, global batch size) and of nothing else.

Never of the number of ranks, of hosts, reader threads or restarts. The idea of a sample order that any number of
workers can share is MosaicML Streaming's; this one needs no divisibility: 50 rows on 3 ranks are 16, 17 and 17.

One epoch, in four steps:

1. The shards are put in an order drawn from (seed, epoch): a stream of all rows.
2. The stream is cut into lanes, 8 at the most. Each batch takes its slots from all lanes, in proportion, so that it
   mixes rows from 8 distant places of the stream.
3. Within a lane, rows are shuffled in equal windows of a few shards' rows.
4. Rank r of W takes slots [⌊r b / W⌋, ⌊(r + 1) b / W⌋) of a batch of b rows. Slots of one lane lie together, so a rank
   reads about 1 / W of the shards. A batch that is computed in slices is shared by slices: see
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


@dataclass(frozen=True)
class RowOrder:
    """The order of every epoch. Shards are numbered as in the manifest; rows within a shard from 0."""

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle_shards: int
    slices: int | None = None  # into which a batch is cut, of which a rank takes whole ones; None: ranks take any rows

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return sum(self.shard_rows)

    @property
    def steps(self) -> int:
        """Steps of an epoch, the last one maybe on fewer rows."""
        return -(-self.rows // self.batch_size)

    @property
    def lanes(self) -> int:
        """Into how many lanes the stream is cut."""
        return min(_LANES, len(self.shard_rows), self.batch_size)

    def batch_rows(self, step: int) -> int:
        """Rows of the global batch of a step (0 ≤ step < steps) of any epoch."""
        return min(self.batch_size, self.rows - step * self.batch_size)

    def share(self, rows: int, rank: int, world_size: int) -> tuple[int, int]:
        """Return the bounds of a rank's rows in a global batch of `rows` rows."""
        return (
            share(rows, rank, world_size) if self.slices is None else share_slices(rows, rank, world_size, self.slices)
        )

    def shards_of(self, rows: NDArray[Any]) -> int:
        """Return how many shards these rows lie in."""
        return len(np.unique(locate(rows, self.shard_rows)[0]))

    def epoch(self, epoch: int) -> "Epoch":
        """Draw one epoch: every row exactly once."""
        stream = self._stream(epoch)
        lanes = [self._shuffled(lane, epoch, n) for n, lane in enumerate(np.split(stream, self._lane_ends()[:-1]))]
        return Epoch(self, np.concatenate(list(self._deal(lanes))))

    def _stream(self, epoch: int) -> NDArray[Any]:
        """Rows as numbers counted through all shards: int64 [rows], shard after shard in the epoch's order."""
        starts = np.concatenate([[0], np.cumsum(self.shard_rows)])
        shards = self._random(epoch).permutation(len(self.shard_rows))
        return np.concatenate([np.arange(starts[s], starts[s + 1]) for s in shards])

    def _slots(self, batch: int) -> list[int]:
        """Bounds of the lanes' slots in a batch of that many rows: lanes + 1 integers."""
        return [lane * batch // self.lanes for lane in range(self.lanes + 1)]

    def _lane_ends(self) -> NDArray[Any]:
        """Where each lane ends in the stream: as many rows as its slots take in one epoch."""
        full, rest = divmod(self.rows, self.batch_size)
        return full * np.array(self._slots(self.batch_size)[1:]) + np.array(self._slots(rest)[1:])

    def _shuffled(self, lane: NDArray[Any], epoch: int, number: int) -> NDArray[Any]:
        # Equal windows of about the size asked for: a short last one would mix the end of each epoch badly.
        windows = max(1, round(len(lane) / (self.shuffle_shards * max(self.shard_rows))))
        random = self._random(epoch, number + 1)
        return np.concatenate([random.permutation(window) for window in np.array_split(lane, windows)])

    def _deal(self, lanes: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the batches of an epoch, in two blocks: the full ones and the rest."""
        full, rest = divmod(self.rows, self.batch_size)
        widths = [stop - start for start, stop in pairwise(self._slots(self.batch_size))]
        whole = [lane[: full * width].reshape(full, width) for lane, width in zip(lanes, widths, strict=True)]
        last = [lane[full * width :] for lane, width in zip(lanes, widths, strict=True)]
        return [np.concatenate(whole, axis=1).reshape(-1), np.concatenate(last)[:rest]]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([_PURPOSE, self.seed, *key])


@dataclass(frozen=True)
class Epoch:
    """One epoch's rows, batch after batch. `order`: int64 [rows], rows counted through all shards."""

    plan: RowOrder
    order: NDArray[Any]

    def batch(self, step: int) -> NDArray[Any]:
        """Return the rows of a step's global batch: int64 [batch_rows(step)]."""
        start = step * self.plan.batch_size
        return self.order[start : start + self.plan.batch_rows(step)]

    def rank_rows(self, first_step: int, last_step: int, rank: int, world_size: int) -> NDArray[Any]:
        """Return the rows of one rank in steps [first_step, last_step), in order: int64 [n]."""
        batches = [self.batch(step) for step in range(first_step, last_step)]
        parts = [batch[slice(*self.plan.share(len(batch), rank, world_size))] for batch in batches]
        return np.concatenate(parts) if parts else self.order[:0]


def share(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the bounds of a rank's rows among `rows`: shares differ by one row at most."""
    return rows * rank // world_size, rows * (rank + 1) // world_size


def share_slices(rows: int, rank: int, world_size: int, slices: int) -> tuple[int, int]:
    """Return the bounds of a rank's rows among `rows` that are cut into equal slices (± 1 row), whole slices only.

    Where the world size divides `slices`, these are the bounds of `share`. A batch of fewer rows has a slice a row.
    """
    slices = min(slices, rows)
    first, last = share(slices, rank, world_size)
    return rows * first // slices, rows * last // slices


def locate(rows: NDArray[Any], shard_rows: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the shard number and the row within the shard of rows counted through all shards: int64 [n] each."""
    ends = np.cumsum(shard_rows)
    shards = np.searchsorted(ends, rows, side="right")
    return shards, rows - (ends - np.asarray(shard_rows))[shards]
