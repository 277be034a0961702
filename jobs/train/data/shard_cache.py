"""The rows of a split in any order, read shard by shard: all kept in memory, or each shard only while it is needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, tee
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard, Split
from jobs.dataset_store import read_record
from jobs.shard_copies import local_paths
from jobs.train.data.order import locate, shard_starts
from jobs.train.data.read_plan import Chunk, ReadPlan
from jobs.train.data.reader import Rows, read_shards
from jobs.train.data.row_cache import RowCache, merge_rows

# Shards that one reader opens. It reads all their footers first, so with all shards of a large epoch it would not begin
# for minutes. At the end of a group its threads wait for the next: 0.02 s for each group, whose shards take seconds.
_GROUP = 256
_GROUP_TO_COPY = 16  # of shards in a store: all of a group are copied before its first is read


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
        self.starts = shard_starts(self.shard_rows)
        self._kept = self._new_cache(None) if keep else None

    def read(self, plan: ReadPlan) -> Iterator[Rows]:
        """Yield the rows of each chunk of a plan, in its order.

        If all rows are kept, a shard is read when a plan first needs it, and stays. Else it is in memory from the turn
        in which it arrives to the one in which it leaves: a chunk of two turns gathers the rows of the first before it
        evicts and loads shards for the second.
        """
        cache = self._kept or self._new_cache(plan.most_shards)
        chunks, ahead = tee(plan.chunks)
        arrivals = self._arrivals(self._to_read(ahead))
        for chunk in chunks:
            rows, turn_of_row = chunk.draw()
            shards, places = locate(rows, self.starts)
            by_turn: list[Rows] = []
            for number, turn in enumerate(chunk.turns):
                if not self._kept:
                    cache.evict(turn.leaving)
                for shard in turn.arriving:
                    if shard not in cache:
                        cache.insert(shard, arrivals.wait_for(shard))
                if not self._kept and turn_of_row is not None:
                    now = turn_of_row == number
                    by_turn.append(cache.gather(shards[now], places[now]))
            if turn_of_row is None or not by_turn:
                yield cache.gather(shards, places)
            else:
                yield _merged(by_turn, turn_of_row)

    def _to_read(self, chunks: Iterable[Chunk]) -> Iterator[int]:
        """Yield the shards to read, in the order in which chunks need them."""
        arriving = (shard for chunk in chunks for turn in chunk.turns for shard in turn.arriving)
        if self._kept is None:
            yield from arriving
            return
        seen: set[int] = set()
        for shard in arriving:
            if shard not in self._kept and shard not in seen:
                seen.add(shard)
                yield shard

    def _arrivals(self, shards: Iterator[int]) -> "Arrivals":
        return Arrivals(self._directory, self._manifest, self._shards, shards, self._threads, self._on_shard)

    def _new_cache(self, capacity: int | None) -> RowCache:
        return RowCache(self.shard_rows, capacity, self._manifest.values_per_image, self._manifest.pixel_type)


def _merged(by_turn: Sequence[Rows], turn_of_row: NDArray[Any]) -> Rows:
    """Return rows in one order, given those of each turn and the turn of each row."""
    merged = by_turn[0]
    for number, rows in enumerate(by_turn[1:], start=1):
        merged = merge_rows(turn_of_row[turn_of_row <= number] == number, rows, merged)
    return merged


def _done(group: list[int], copying: "Future[object]") -> list[int]:
    """Return a group once its shards are copied; raise the error if they could not be."""
    copying.result()
    return group


class Arrivals:
    """Shards on their way from the reader's threads, which may deliver them in another order."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        shards: Sequence[Shard],
        wanted: Iterator[int],
        threads: int,
        on_shard: Callable[[], None],
    ) -> None:
        """`shards`: of the split. `wanted`: the numbers of those to read, in the order in which they are needed."""
        self._directory, self._manifest, self._shards = directory, manifest, shards
        self._wanted, self._threads, self._on_shard = wanted, threads, on_shard
        groups = self._groups(_GROUP) if read_record(directory) is None else self._copied(self._groups(_GROUP_TO_COPY))
        self._arriving = chain.from_iterable(map(self._read, groups))
        self._early: dict[int, Rows] = {}

    def wait_for(self, shard: int) -> Rows:
        """Return a shard's rows, once for each time it is wanted, as soon as they have arrived."""
        while shard not in self._early:
            number, rows = next(self._arriving)
            self._early[number] = rows
            self._on_shard()
        return self._early.pop(shard)

    def _groups(self, size: int) -> Iterator[list[int]]:
        """Yield the wanted shards in groups of at most `size`, each shard at most once in a group."""
        group: dict[int, None] = {}
        for shard in self._wanted:
            if shard in group or len(group) == size:
                yield list(group)
                group = {}
            group[shard] = None
        if group:
            yield list(group)

    def _copied(self, groups: Iterator[list[int]]) -> Iterator[list[int]]:
        """Yield groups of shards of which this node has copies. Those of the next group are made meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            copying: list[tuple[list[int], Future[object]]] = []
            for group in groups:
                files = [self._shards[shard] for shard in group]
                copying.append((group, pool.submit(local_paths, self._directory, files)))
                if len(copying) == 2:
                    yield _done(*copying.pop(0))
            for each in copying:
                yield _done(*each)

    def _read(self, group: list[int]) -> Iterator[tuple[int, Rows]]:
        files = [self._shards[shard] for shard in group]
        for position, rows in read_shards(self._directory, self._manifest, files, self._threads):
            yield group[position], rows
