"""The rows of a split in any order, read shard by shard: all kept in memory, or each shard only while it is needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard, Split
from jobs.train.data.order import locate
from jobs.train.data.reader import Rows, read_shards
from jobs.train.data.row_cache import RowCache, merge_rows


class ShardStore:
    """The rows of a split that a rank needs: read when needed, kept on request."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        split: Split,
        threads: int,
        keep: bool,
        on_shard: Callable[[], None] = lambda: None,
    ) -> None:
        """`keep`: never evict a row. `on_shard`: called after each shard, in the thread that reads."""
        self._directory, self._manifest, self._threads, self._on_shard = directory, manifest, threads, on_shard
        self._shards = manifest.splits[split].shards
        self.shard_rows = tuple(shard.rows for shard in self._shards)
        self._kept = self._new_cache(None) if keep else None

    def read(self, chunks: Sequence[NDArray[Any]]) -> Iterator[Rows]:
        """Yield the rows of each chunk in its order. A chunk: row numbers counted through all shards, int64 [n].

        Unless all rows are kept, a shard is in memory from its first chunk to its last. A chunk copies the rows of the
        shards that it is the last to need, and evicts those, before it loads the shards that it is the first to need.
        So at the end of a shuffle window, the old and the new window's shards are not in memory together.
        """
        located = [locate(chunk, self.shard_rows) for chunk in chunks]
        needed = [[int(shard) for shard in np.unique(shards)] for shards, _ in located]
        uses = ShardUses.of(needed)
        cache = self._kept or self._new_cache(uses.most_at_once)
        arrivals = self._arrivals([shard for shard in uses.first if shard not in cache])
        for position, (shards, rows) in enumerate(located):
            ending = [] if self._kept else [shard for shard in needed[position] if uses.last[shard] == position]

            leaving = [shard for shard in ending if shard in cache]
            is_leaving = np.isin(shards, leaving)
            from_leaving = cache.gather(shards[is_leaving], rows[is_leaving])
            cache.evict(leaving)

            for shard in needed[position]:
                if shard not in leaving and shard not in cache:
                    cache.insert(shard, arrivals.wait_for(shard))
            from_others = cache.gather(shards[~is_leaving], rows[~is_leaving])

            yield merge_rows(is_leaving, from_leaving, from_others)
            cache.evict([shard for shard in ending if shard in cache])

    def _arrivals(self, shards: Sequence[int]) -> "Arrivals":
        files = {shard: self._shards[shard] for shard in shards}
        return Arrivals(self._directory, self._manifest, files, self._threads, self._on_shard)

    def _new_cache(self, capacity: int | None) -> RowCache:
        return RowCache(self.shard_rows, capacity, self._manifest.values_per_image, self._manifest.pixel_type)


class Arrivals:
    """Shards on their way from the reader's threads, which may deliver them in another order."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        shards: Mapping[int, Shard],
        threads: int,
        on_shard: Callable[[], None],
    ) -> None:
        """`shards`: the files to read by shard number, in the order in which they are needed."""
        self._numbers, self._on_shard = list(shards), on_shard
        self._arriving = read_shards(directory, manifest, list(shards.values()), threads)
        self._early: dict[int, Rows] = {}

    def wait_for(self, shard: int) -> Rows:
        """Return a shard's rows, once only, as soon as they have arrived."""
        while shard not in self._early:
            position, rows = next(self._arriving)
            self._early[self._numbers[position]] = rows
            self._on_shard()
        return self._early.pop(shard)


@dataclass(frozen=True)
class ShardUses:
    """The first and the last chunk that needs each shard, in the order of the first.

    `most_at_once`: the most shards in memory at a time, if each chunk evicts the shards it is the last to need before
    it loads those it is the first to need.
    """

    first: Mapping[int, int]
    last: Mapping[int, int]
    most_at_once: int

    @staticmethod
    def of(needed: Sequence[Sequence[int]]) -> "ShardUses":
        """Return the uses of shards, given the shards that each chunk needs."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for position, shards in enumerate(needed):
            for shard in shards:
                first.setdefault(shard, position)
                last[shard] = position
        most = cached = 0
        for position, shards in enumerate(needed):
            cached -= sum(first[shard] < position == last[shard] for shard in shards)
            cached += sum(first[shard] == position for shard in shards)
            most = max(most, cached)
            cached -= sum(first[shard] == position == last[shard] for shard in shards)
        return ShardUses(first, last, most)
