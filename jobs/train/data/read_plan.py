"""What a `ShardStore` is asked to read: chunks of rows, and when each shard is loaded and evicted.

A plan is read while it is made. Its chunks can be looked through far ahead for the shards that they need, as their rows
are drawn only when they are read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """A change of the shards in memory: first evict `leaving`, then load `arriving`."""

    leaving: Sequence[int] = ()
    arriving: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows that are read together, in turns.

    `draw`: returns the rows, counted through all shards, int64 [n], and the turn after which each is gathered,
    int64 [n]; None if there is one turn.
    """

    turns: Sequence[Turn]
    draw: Callable[[], tuple[NDArray[Any], NDArray[Any] | None]]


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """Chunks, and the most shards that are in memory at a time."""

    chunks: Iterable[Chunk]
    most_shards: int


def consecutive(bounds: Iterable[tuple[int, int]], most_rows: int, starts: NDArray[Any]) -> ReadPlan:
    """Return the plan for chunks of consecutive rows [first, last), at most `most_rows` and at least one each.

    `starts`: as from `jobs.train.data.order.shard_starts`. A shard is in memory while consecutive chunks need it.
    """
    # The longest run of shards that a chunk meets begins at the last row of a shard.
    last_rows = starts[1:] - 1
    reached = np.searchsorted(starts, np.minimum(last_rows + most_rows - 1, starts[-1] - 1), side="right") - 1
    most = int((reached - np.arange(len(reached))).max(initial=-1)) + 1
    return ReadPlan(chunks=_consecutive(bounds, starts), most_shards=most)


def _consecutive(bounds: Iterable[tuple[int, int]], starts: NDArray[Any]) -> Iterator[Chunk]:
    held: set[int] = set()
    for first, last in bounds:
        low, high = np.searchsorted(starts, [first, last - 1], side="right") - 1
        needed = range(int(low), int(high) + 1)
        turn = Turn(sorted(held - set(needed)), [shard for shard in needed if shard not in held])
        held = set(needed)
        yield Chunk(turns=[turn], draw=partial(_one_turn, first, last))


def _one_turn(first: int, last: int) -> tuple[NDArray[Any], None]:
    return np.arange(first, last), None
