"""From an order of rows to what one call of the graph takes: several steps' batches of one rank, made ahead of time."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Split
from jobs.train.data.order import RowOrder, locate
from jobs.train.data.reader import Rows, read_shards
from jobs.train.data.row_cache import HeldRows, joined

_AHEAD = 2  # calls prepared while one runs
# Of images in a call of the graph. Rows of up to five calls are in memory: those prepared, the one in the making, the
# one that runs, and TensorFlow's hold on the one before.
_CALL_BYTES = 16 << 20


class ShardStore:
    """The rows of a split that a rank needs, read as they are needed and kept if told to."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        split: Split,
        threads: int,
        keep: bool,
        arrived: Callable[[], None] = lambda: None,
    ) -> None:
        """`arrived`: called in the thread that reads, after each shard."""
        self._directory, self._manifest, self._threads, self._arrived = directory, manifest, threads, arrived
        self._shards = manifest.splits[split].shards
        self.shard_rows = tuple(shard.rows for shard in self._shards)
        self._kept = self._room(None) if keep else None

    def read(self, chunks: Sequence[NDArray[Any]]) -> Iterator[Rows]:
        """Yield, for each chunk of row numbers (int64 [n], counted through all shards), those rows in that order.

        Unless all is kept, a shard is dropped after the last chunk that needs it. Of a chunk, the rows of shards that
        are there and go are taken before others come: windows of rows end in all lanes at once, and the next ones need
        not be held beside them.
        """
        located = [locate(chunk, self.shard_rows) for chunk in chunks]
        needed = [[int(shard) for shard in np.unique(shards)] for shards, _ in located]
        uses = Uses.of(needed)
        held = self._kept or self._room(uses.at_once)
        missing = [shard for shard in uses.first if shard not in held]
        arriving = read_shards(
            self._directory, self._manifest, [self._shards[shard] for shard in missing], self._threads
        )
        early: dict[int, Rows] = {}  # arrived before its turn

        def hold(shard: int) -> None:
            while shard not in held and shard not in early:
                place, found = next(arriving)
                early[missing[place]] = found
                self._arrived()
            if shard in early:
                held.put(shard, early.pop(shard))

        for position, (shards, rows) in enumerate(located):
            last = [] if held is self._kept else [shard for shard in needed[position] if uses.last[shard] == position]
            leaving = [shard for shard in last if shard in held]
            if leaving:
                goes = np.isin(shards, leaving)
                gone = held.take(shards[goes], rows[goes])
                shards, rows = shards[~goes], rows[~goes]
                for shard in leaving:
                    held.drop(shard)
            for shard in needed[position]:
                if shard not in leaving:
                    hold(shard)
            taken = held.take(shards, rows)
            yield joined(goes, gone, taken) if leaving else taken
            for shard in last:
                if shard not in leaving:
                    held.drop(shard)

    def _room(self, at_once: int | None) -> HeldRows:
        return HeldRows(self.shard_rows, at_once, self._manifest.values_per_image)


@dataclass(frozen=True)
class Uses:
    """Which chunk needs each shard first and last, in the order of the first, and how many are held at once.

    Those that a chunk is the last to need are gone before those come that it is the first to need.
    """

    first: Mapping[int, int]
    last: Mapping[int, int]
    at_once: int

    @staticmethod
    def of(needed: Sequence[Sequence[int]]) -> "Uses":
        """Return the uses of the shards that each chunk needs."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for position, shards in enumerate(needed):
            for shard in shards:
                first.setdefault(shard, position)
                last[shard] = position
        most = held = 0
        for position, shards in enumerate(needed):
            held -= sum(first[shard] < position == last[shard] for shard in shards)
            held += sum(first[shard] == position for shard in shards)
            most = max(most, held)
            held -= sum(first[shard] == position == last[shard] for shard in shards)
        return Uses(first, last, most)


@dataclass(frozen=True)
class Call:
    """What one call of the graph trains on: k consecutive steps, n rows of this rank in each.

    `images` float32 [k, n, values]; `labels` int32 [k, n]; `weights` float32 [k, n], 1 but for a stand-in row (below);
    `indices` int64 [rows], the archive rows trained on. The rows are rows [first_row, first_row + n) of global
    batches of `global_rows` rows. `measured`: the training is measured after its last step.

    A rank that gets no row of a small last batch still takes part in its step, with one stand-in row of weight 0.
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
        """How many steps."""
        return len(self.images)


@dataclass(frozen=True)
class Span:
    """Steps [first, last) of one epoch, all on global batches of one size. `start`: the training step of `first`.

    `measured`: the training is measured after the last.
    """

    first: int
    last: int
    start: int
    measured: bool


def most_steps(order: RowOrder, values: int, world_size: int) -> int:
    """Return how many steps a call of the graph has at the most, for images of so many values."""
    return max(1, _CALL_BYTES // (4 * values * -(-order.batch_size // world_size)))


def spans(order: RowOrder, epoch: int, start: int, stop: int, log_every: int, most: int) -> list[Span]:
    """Cut the steps [start, stop) of the training, as far as they lie in an epoch, into calls of the graph.

    It is measured at multiples of `log_every` (counted over the whole training, so that a resumed training is measured
    at the same steps), before a smaller last batch, and at the end of the epoch. Between two measurements is one call,
    or where that had more than `most` steps, several of about the same length.
    """
    base = epoch * order.steps
    first, last = max(start, base), min(stop, base + order.steps)
    full = base + order.rows // order.batch_size
    measured = range(-(-first // log_every) * log_every, last, log_every)  # not from 0: that is as long as the training
    planned = []
    for begin, end in pairwise(sorted({first, *measured, *([full] if first <= full <= last else []), last})):
        calls = -(-(end - begin) // most)
        cuts = [begin + (end - begin) * n // calls for n in range(calls + 1)]
        planned += [Span(a - base, b - base, a, b == end) for a, b in pairwise(cuts)]
    return planned


def read_epoch(
    store: ShardStore, order: RowOrder, epoch: int, calls: Sequence[Span], rank: int, world_size: int
) -> Iterator[Call]:
    """Yield the calls of one epoch for one rank, read ahead in a thread."""
    drawn = order.epoch(epoch)
    chunks = [drawn.rank_rows(span.first, span.last, rank, world_size) for span in calls]
    for span, rows in zip(calls, read_ahead(store.read(chunks)), strict=True):
        global_rows = order.batch_rows(span.first)
        yield _to_call(span, rows, global_rows, *order.share(global_rows, rank, world_size))


def _to_call(span: Span, rows: Rows, global_rows: int, low: int, high: int) -> Call:
    """Shape a rank's rows, [low, high) of each global batch."""
    steps = span.last - span.first
    images, labels, weights = rows.images, rows.labels, np.ones(len(rows.labels), np.float32)
    if low == high:
        low = min(low, global_rows - 1)
        images = np.zeros((steps, images.shape[1]), np.float32)
        labels, weights = np.zeros(steps, np.int32), np.zeros(steps, np.float32)
    return Call(
        span.start,
        images.reshape(steps, -1, images.shape[1]),
        labels.reshape(steps, -1),
        weights.reshape(steps, -1),
        rows.indices,
        low,
        global_rows,
        span.measured,
    )


def read_ahead(items: Iterator[Rows]) -> Iterator[Rows]:
    """Yield the items of an iterator that runs in a thread of its own, a few items ahead."""
    ready: queue.Queue[Rows | BaseException | None] = queue.Queue(_AHEAD)
    abandoned = threading.Event()

    def put(item: Rows | BaseException | None) -> None:
        while not abandoned.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            put(error)

    threading.Thread(target=work, name="read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
