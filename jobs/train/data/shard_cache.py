"""The rows of a split in any order, read shard by shard: all kept in memory, or each shard only while it is needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.dataset import Manifest, Split
from jobs.dataset_store import read_record
from jobs.shard_copies import CONNECTIONS, local_path
from jobs.train.data.order import locate, shard_starts
from jobs.train.data.read_plan import Chunk, ReadPlan
from jobs.train.data.reader import Rows, process_shards, read_shards
from jobs.train.data.row_cache import RowCache, merge_rows
from jobs.train.shared_memory import SharedMemory

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
        memory: SharedMemory | None = None,
    ) -> None:
        """`keep`: never evict a row. `on_shard`: called after each shard, in the thread that reads or copies.

        `memory`: where ranks that keep all rows share them.
        """
        self._directory, self._manifest, self._threads, self._on_shard = directory, manifest, threads, on_shard
        self._shards = manifest.splits[split].shards
        self.shard_rows = tuple(shard.rows for shard in self._shards)
        self.starts = shard_starts(self.shard_rows)
        self._kept = self._new_cache(None, memory) if keep else None

    def read(self, plan: ReadPlan) -> Iterator[Rows]:
        """Yield the rows of each chunk of a plan, in its order."""
        return self._keep(plan, self._kept) if self._kept else self._stream(plan)

    def _keep(self, plan: ReadPlan, cache: RowCache) -> Iterator[Rows]:
        """Read a shard when a plan first needs it; it stays. Shards that another rank has read, or is reading, do."""
        chunks, ahead = tee(plan.chunks)
        filling = self._fill(cache, ahead)
        for chunk in chunks:
            for shard in _arriving([chunk]):
                while shard not in cache:
                    if not next(filling, False):
                        cache.wait_for(shard)
            rows, _ = chunk.draw()
            yield cache.gather(*locate(rows, self.starts))

    def _fill(self, cache: RowCache, chunks: Iterable[Chunk]) -> Iterator[bool]:
        """Read the missing shards of chunks into a cache, in the order in which they are needed; yield after each."""
        for group in self._groups(shard for shard in _arriving(chunks) if shard not in cache):
            files = [self._shards[shard] for shard in group]
            fill = partial(_fill_one, cache, group)
            for _ in process_shards(self._directory, self._manifest, files, self._threads, fill):
                self._on_shard()
                yield True

    def _stream(self, plan: ReadPlan) -> Iterator[Rows]:
        """Keep a shard from the turn in which it arrives to the one in which it leaves.

        A chunk of two turns gathers the rows of the first before it evicts and loads shards for the second.
        """
        cache = self._new_cache(plan.most_shards)
        chunks, ahead = tee(plan.chunks)
        arrivals = Arrivals(self._read_groups(_arriving(ahead)))
        for chunk in chunks:
            rows, turn_of_row = chunk.draw()
            shards, places = locate(rows, self.starts)
            by_turn: list[Rows] = []
            for number, turn in enumerate(chunk.turns):
                cache.evict(turn.leaving)
                for shard in turn.arriving:
                    cache.insert(shard, arrivals.wait_for(shard))
                if turn_of_row is not None:
                    now = turn_of_row == number
                    by_turn.append(cache.gather(shards[now], places[now]))
            if turn_of_row is None or not by_turn:
                yield cache.gather(shards, places)
            else:
                yield _merged(by_turn, turn_of_row)

    def _read_groups(self, shards: Iterable[int]) -> Iterator[tuple[int, Rows]]:
        """Yield the number and rows of each of these shards, roughly in their order."""
        for group in self._groups(shards):
            files = [self._shards[shard] for shard in group]
            for position, rows in read_shards(self._directory, self._manifest, files, self._threads):
                self._on_shard()
                yield group[position], rows

    def _groups(self, shards: Iterable[int]) -> Iterator[list[int]]:
        """Yield shards in groups for one reader each. Those in a store are copied first, the next group meanwhile."""
        if read_record(self._directory) is None:
            yield from _groups(shards, _GROUP)
            return
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            copying: list[tuple[list[int], list[Future[None]]]] = []
            try:
                for group in _groups(shards, _GROUP_TO_COPY):
                    copying.append((group, [pool.submit(self._copy, shard) for shard in group]))
                    if len(copying) == 2:
                        yield _done(*copying.pop(0))
                for each in copying:
                    yield _done(*each)
            finally:
                pool.shutdown(cancel_futures=True)

    def _copy(self, shard: int) -> None:
        """Copy a shard from its store. Each is a sign of progress: over a slow network, a group takes minutes."""
        local_path(self._directory, self._shards[shard])
        self._on_shard()

    def _new_cache(self, capacity: int | None, memory: SharedMemory | None = None) -> RowCache:
        return RowCache(self.shard_rows, capacity, self._manifest.values_per_image, self._manifest.pixel_type, memory)


def _arriving(chunks: Iterable[Chunk]) -> Iterator[int]:
    """Yield the shards that chunks load, in the order in which they need them."""
    return (shard for chunk in chunks for turn in chunk.turns for shard in turn.arriving)


def _groups(shards: Iterable[int], size: int) -> Iterator[list[int]]:
    """Yield shards in groups of at most `size`, each shard at most once in a group."""
    group: dict[int, None] = {}
    for shard in shards:
        if shard in group or len(group) == size:
            yield list(group)
            group = {}
        group[shard] = None
    if group:
        yield list(group)


def _fill_one(cache: RowCache, group: Sequence[int], position: int, read: Callable[[], Rows]) -> None:
    cache.fill(group[position], read)


def _merged(by_turn: Sequence[Rows], turn_of_row: NDArray[Any]) -> Rows:
    """Return rows in one order, given those of each turn and the turn of each row."""
    merged = by_turn[0]
    for number, rows in enumerate(by_turn[1:], start=1):
        merged = merge_rows(turn_of_row[turn_of_row <= number] == number, rows, merged)
    return merged


def _done(group: list[int], copying: Sequence[Future[None]]) -> list[int]:
    """Return a group once its shards are copied; raise the error if one could not be."""
    for each in copying:
        each.result()
    return group


class Arrivals:
    """Shards on their way from the reader's threads, which may deliver them in another order."""

    def __init__(self, arriving: Iterator[tuple[int, Rows]]) -> None:
        """`arriving`: the number and rows of each shard."""
        self._arriving = arriving
        self._early: dict[int, Rows] = {}

    def wait_for(self, shard: int) -> Rows:
        """Return a shard's rows, once for each time it is wanted, as soon as they have arrived."""
        while shard not in self._early:
            number, rows = next(self._arriving)
            self._early[number] = rows
        return self._early.pop(shard)
