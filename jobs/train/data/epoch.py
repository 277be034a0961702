"""One epoch of a `RowOrder`, drawn window by window as it is needed.

It takes 24 bytes a shard for the order of the shards, and 8 bytes a row for one window of each lane. Any step is drawn
without those before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.train.data.order import RowOrder
from jobs.train.data.read_plan import Chunk, ReadPlan, Turn


class _Block(NamedTuple):
    """A rank's rows of one lane in consecutive steps on batches of one size.

    `base`: position in the lane of the first step's first slot. `width`: slots of the lane in a batch. `first`, `last`:
    bounds of the rank's slots among those of the lane. `column`: the first one's place among the rank's rows of a step.
    """

    lane: int
    base: int
    width: int
    first: int
    last: int
    column: int


class Epoch:
    """The rows of one epoch."""

    def __init__(self, order: RowOrder, number: int) -> None:
        """Draw the order of the shards. `number`: of the epoch, from 0."""
        self._order, self._number = order, number
        self._shards = order.random(number).permutation(len(order.shard_rows))  # in the order of the stream
        rows = order.starts[self._shards + 1] - order.starts[self._shards]
        self._ends = np.cumsum(rows)  # of the shards in the stream
        self._shifts = order.starts[self._shards] - (self._ends - rows)  # from a place in the stream to a row
        self._drawn: dict[int, tuple[int, NDArray[Any]]] = {}  # by lane, the last window drawn and its rows

    def batch(self, step: int) -> NDArray[Any]:
        """Return the rows of a step's global batch, counted through all shards: int64 [batch_rows(step)]."""
        return self.rank_rows(step, step + 1, 0, 1)

    def rank_rows(self, first_step: int, last_step: int, rank: int, world_size: int) -> NDArray[Any]:
        """Return the rows of one rank in steps [first_step, last_step), in order: int64 [n]."""
        full = self._order.full_steps
        # The last batch may be smaller.
        parts = [(first_step, min(last_step, full)), (max(first_step, full), last_step)]
        rows = [self._rows(first, last, self._blocks(first, rank, world_size)) for first, last in parts if first < last]
        return np.concatenate(rows) if rows else np.empty(0, np.int64)

    def read_plan(self, steps: Iterable[tuple[int, int]], rank: int, world_size: int) -> ReadPlan:
        """Return how to read a rank's rows of consecutive steps [first, last), each on batches of one size.

        A shard is in memory while a window that it is in is used. A lane evicts the shards of its old window before it
        loads those of the new one, so they are not in memory together.
        """
        order = self._order
        sizes = [size for size in (order.batch_size, order.rows % order.batch_size) if 0 < size <= order.rows]
        lanes = {block.lane for size in sizes for block in self._blocks_of(size, 0, rank, world_size)}
        most = sum(self._most_shards(lane) for lane in lanes)
        return ReadPlan(chunks=self._chunks(steps, rank, world_size), most_shards=min(most, len(order.shard_rows)))

    def shards_read(self, rank: int, world_size: int) -> int:
        """Return how many shards have rows of the lanes that a rank has slots in."""
        order = self._order
        lanes = [block.lane for block in self._blocks(0, rank, world_size)]
        if not lanes:
            return 0
        low, high = self._places(order.lane_bounds[min(lanes)], order.lane_bounds[max(lanes) + 1])
        return high - low

    def _blocks(self, step: int, rank: int, world_size: int) -> list[_Block]:
        return self._blocks_of(self._order.batch_rows(step), step, rank, world_size)

    def _blocks_of(self, batch: int, step: int, rank: int, world_size: int) -> list[_Block]:
        """Return a rank's blocks of the steps from `step` on, on batches of `batch` rows; those before are full."""
        low, high = self._order.share(batch, rank, world_size)
        full = self._order.slots(self._order.batch_size)
        blocks = []
        for lane, (start, stop) in enumerate(pairwise(self._order.slots(batch))):
            first, last = max(low, start), min(high, stop)
            if first < last:
                base = step * (full[lane + 1] - full[lane])
                blocks.append(_Block(lane, base, stop - start, first - start, last - start, first - low))
        return blocks

    def _rows(self, first: int, last: int, blocks: Sequence[_Block]) -> NDArray[Any]:
        """Return the rows of blocks in steps [first, last): int64 [n], step after step."""
        rows = np.empty((last - first, sum(block.last - block.first for block in blocks)), np.int64)
        for block in blocks:
            lane = self._lane(block.lane, block.base, block.base + (last - first) * block.width)
            columns = slice(block.column, block.column + block.last - block.first)
            rows[:, columns] = lane.reshape(-1, block.width)[:, block.first : block.last]
        return rows.reshape(-1)

    def _lane(self, lane: int, first: int, last: int) -> NDArray[Any]:
        """Return the rows at positions [first, last) of a lane."""
        pieces = []
        for window in range(self._order.window_at(lane, first), self._order.window_at(lane, last - 1) + 1):
            start = self._order.window_bounds(lane, window)
            pieces.append(self._window(lane, window)[max(0, first - start) : last - start])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _window(self, lane: int, window: int) -> NDArray[Any]:
        """Return the shuffled rows of a window, from memory if it was the lane's last."""
        drawn, rows = self._drawn.get(lane, (None, None))
        if rows is None or drawn != window:
            # The first window has the lane's key: the order of a lane of one window, as of MNIST's, never changed.
            key = (self._number, lane + 1, window) if window else (self._number, lane + 1)
            rows = self._order.random(*key).permutation(self._in_stream(lane, window))
            self._drawn[lane] = window, rows
        return rows

    def _in_stream(self, lane: int, window: int) -> NDArray[Any]:
        """Return the rows of a window, shard after shard."""
        start = self._order.lane_bounds[lane]
        first, last = (start + self._order.window_bounds(lane, bound) for bound in (window, window + 1))
        low, high = self._places(first, last)
        counts = np.diff([first, *self._ends[low : high - 1], last])
        return np.arange(first, last) + np.repeat(self._shifts[low:high], counts)

    def _places(self, first: int, last: int) -> tuple[int, int]:
        """Return the bounds, in the order of the stream, of the shards that rows [first, last) of the stream are in."""
        low, high = np.searchsorted(self._ends, [first, last - 1], side="right")
        return int(low), int(high) + 1

    def _most_shards(self, lane: int) -> int:
        """Return the most shards that a window of a lane has rows of."""
        windows = np.arange(self._order.windows[lane] + 1)
        bounds = self._order.lane_bounds[lane] + self._order.window_bounds(lane, windows)
        low = np.searchsorted(self._ends, bounds[:-1], side="right")
        high = np.searchsorted(self._ends, bounds[1:] - 1, side="right")
        return int((high - low).max()) + 1

    def _chunks(self, steps: Iterable[tuple[int, int]], rank: int, world_size: int) -> Iterator[Chunk]:
        current: dict[int, int] = {}  # the window in use by lane
        held: dict[int, None] = {}  # the shards in memory, as an ordered set
        for first, last in steps:
            blocks = self._blocks(first, rank, world_size)
            used = {block.lane: self._used_windows(block, last - first) for block in blocks}
            turns = []
            for number in range(max((high - low for low, high in used.values()), default=0) + 1):
                windows = {lane: min(low + number, high) for lane, (low, high) in used.items()}
                if windows == current:
                    turns.append(Turn())
                    continue
                needed = self._shards_of(windows)
                arriving = [shard for shard in needed if shard not in held]
                turns.append(Turn([shard for shard in held if shard not in needed], arriving))
                current, held = windows, needed
            yield Chunk(turns=turns, draw=partial(self._draw, first, last, blocks, len(turns)))

    def _used_windows(self, block: _Block, steps: int) -> tuple[int, int]:
        """Return the first and the last window that a rank's slots of a lane are in."""
        positions = block.base + block.first, block.base + (steps - 1) * block.width + block.last - 1
        first, last = (self._order.window_at(block.lane, position) for position in positions)
        return first, last

    def _shards_of(self, windows: dict[int, int]) -> dict[int, None]:
        """Return the shards that windows, by lane, have rows of, in the order of the stream."""
        shards: dict[int, None] = {}
        for lane, window in windows.items():
            start = self._order.lane_bounds[lane]
            first, last = (start + self._order.window_bounds(lane, bound) for bound in (window, window + 1))
            shards |= dict.fromkeys(self._shards[slice(*self._places(first, last))].tolist())
        return shards

    def _draw(
        self, first: int, last: int, blocks: Sequence[_Block], turns: int
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return the rows of blocks in steps [first, last) and, of several turns, each row's: the chunk's `draw`."""
        rows = self._rows(first, last, blocks)
        if turns == 1:
            return rows, None
        turn = np.empty((last - first, len(rows) // (last - first)), np.int64)
        for block in blocks:
            columns = slice(block.column, block.column + block.last - block.first)
            step, slot = np.ogrid[: last - first, block.first : block.last]
            windows = self._order.window_at(block.lane, block.base + step * block.width + slot)
            turn[:, columns] = windows - windows[0, 0]
        return rows, turn.reshape(-1)
