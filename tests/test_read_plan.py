"""Read plans: which shards a rank has in memory when, and that every row comes exactly."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import Manifest, Shard
from jobs.train.data import shard_cache
from jobs.train.data.calls import plan_calls, read_epoch
from jobs.train.data.order import RowOrder
from jobs.train.data.read_plan import consecutive
from jobs.train.data.reader import Rows
from jobs.train.data.shard_cache import ShardStore


class MadeShards:
    """Shards that no file has, which arrive in any order; an image's only value is its row."""

    def __init__(self, shard_rows: Sequence[int], shuffle: Callable[[list[int]], None]) -> None:
        ends = np.cumsum(shard_rows)
        self.shuffle, self.read = shuffle, 0
        shards = tuple(
            Shard.model_construct(path=f"train/part-{n:05d}.parquet", rows=rows, first_index=int(end) - rows)
            for n, (rows, end) in enumerate(zip(shard_rows, ends, strict=True))
        )
        self.manifest = Manifest.model_construct(shape=(1, 1, 1), splits={"train": SimpleNamespace(shards=shards)})

    def read_shards(
        self, directory: Path, manifest: Manifest, wanted: Sequence[Shard], threads: int
    ) -> Iterator[tuple[int, Rows]]:
        order = list(range(len(wanted)))
        self.shuffle(order)
        for position in order:
            self.read += 1
            indices = wanted[position].first_index + np.arange(wanted[position].rows)
            yield position, Rows(indices[:, None].astype(np.float32), indices.astype(np.int32) % 7, indices)

    def process_shards(
        self,
        directory: Path,
        manifest: Manifest,
        wanted: Sequence[Shard],
        threads: int,
        process: Callable[[int, Callable[[], Rows]], Any],
    ) -> Iterator[tuple[int, Any]]:
        for position, rows in self.read_shards(directory, manifest, wanted, threads):
            yield position, process(position, partial(_same, rows))

    def store(self, patch: pytest.MonkeyPatch, *, keep: bool) -> ShardStore:
        patch.setattr(shard_cache, "read_shards", self.read_shards)
        patch.setattr(shard_cache, "process_shards", self.process_shards)
        return ShardStore(Path(), self.manifest, "train", 2, keep)


def _same(rows: Rows) -> Rows:
    return rows


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20), st.booleans(), st.data())
@settings(deadline=None)
def test_any_steps_of_any_rank_are_read_exactly_within_the_planned_capacity(
    shard_rows: list[int], batch: int, keep: bool, data: st.DataObject
) -> None:
    """A streaming store raises if it needs more shards at a time than planned."""
    made = MadeShards(shard_rows, data.draw(st.randoms(use_true_random=False)).shuffle)
    order = RowOrder(
        shard_rows=tuple(shard_rows), batch_size=batch, seed=3, shuffle_shards=data.draw(st.integers(1, 3))
    )
    world_size = data.draw(st.integers(1, 5))
    rank = data.draw(st.integers(0, world_size - 1))
    start = data.draw(st.integers(0, order.steps - 1))
    stop = data.draw(st.integers(start + 1, order.steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_cache, "_GROUP", data.draw(st.integers(1, 5)))
        # Up to 20 lanes, of smaller windows.
        patch.setattr("jobs.train.data.order._LANE_ROWS", data.draw(st.integers(1, 128)))
        store = made.store(patch, keep=keep)
        for _ in range(2):
            calls = list(plan_calls(order, 0, start, stop, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))))
            plan = order.epoch(0).read_plan([(call.first, call.last) for call in calls], rank, world_size)
            assert plan.most_shards <= len(shard_rows)
            for call, rows in zip(calls, store.read(plan), strict=True):
                assert (
                    rows.indices.tolist() == order.epoch(0).rank_rows(call.first, call.last, rank, world_size).tolist()
                )
                assert (rows.labels == rows.indices % 7).all()
                assert (rows.images[:, 0] == rows.indices).all()
    assert not keep or made.read <= len(shard_rows)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_any_consecutive_rows_are_read_exactly_within_the_planned_capacity(
    shard_rows: list[int], data: st.DataObject
) -> None:
    made = MadeShards(shard_rows, data.draw(st.randoms(use_true_random=False)).shuffle)
    total = sum(shard_rows)
    firsts = data.draw(st.lists(st.integers(0, total - 1), max_size=9))
    most = data.draw(st.integers(1, 20))
    bounds = [(first, data.draw(st.integers(first + 1, min(first + most, total)))) for first in firsts]
    with pytest.MonkeyPatch.context() as patch:
        store = made.store(patch, keep=False)
        for (first, last), rows in zip(bounds, store.read(consecutive(bounds, most, store.starts)), strict=True):
            assert rows.indices.tolist() == list(range(first, last))


def test_when_a_window_ends_its_shards_leave_before_those_of_the_next_arrive() -> None:
    order = RowOrder(shard_rows=(10,) * 64, batch_size=16, seed=0, shuffle_shards=2)
    plan = order.epoch(0).read_plan([(step, step + 1) for step in range(order.steps)], 0, 1)
    assert plan.most_shards == 16  # 8 lanes of 2 shards, though windows end within a step's chunk
    held: set[int] = set()
    seen: list[int] = []
    for chunk in plan.chunks:
        for turn in chunk.turns:
            assert set(turn.leaving) <= held
            held = (held - set(turn.leaving)) | set(turn.arriving)
            seen += turn.arriving
            assert len(held) <= plan.most_shards
    assert sorted(seen) == list(range(64))


def test_a_rank_of_100_million_rows_reads_in_little_memory() -> None:
    """One epoch of 1,562 steps of 64,000 rows, of which one rank of 1,000 reads 64: the shards are made."""
    made = MadeShards((2500,) * 40_000, lambda order: None)
    order = RowOrder(shard_rows=(2500,) * 40_000, batch_size=64_000, seed=0, shuffle_shards=4)
    with pytest.MonkeyPatch.context() as patch:
        store = made.store(patch, keep=False)
        tracemalloc.start()
        calls = plan_calls(order, 0, 0, order.steps, 50, 100)
        read = [call.indices for call in read_epoch(store, order, 0, calls, 7, 1000)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(np.unique(np.concatenate(read))) == 64 * (order.steps - 1) + 32
    assert made.read < 3 * 40_000 / 1000
    assert peak < 20e6
