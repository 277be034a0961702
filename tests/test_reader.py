"""From shards to graph calls: the reader (whose thread pool loses and swaps row groups), row cache and prefetching."""

import shutil
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.train.config import TrainConfig
from jobs.train.data import shard_cache
from jobs.train.data.calls import max_steps_per_execution, plan_calls, read_epoch, read_epochs
from jobs.train.data.order import RowOrder
from jobs.train.data.prefetch import read_ahead
from jobs.train.data.read_plan import consecutive
from jobs.train.data.reader import Rows, read_shards
from jobs.train.data.row_cache import ALIGNMENT, RowCache, keeps_all_rows, row_bytes
from jobs.train.data.shard_cache import ShardStore
from jobs.train.shared_memory import SharedMemory
from tests.support.tiny_shards import ROWS, SHARDS, write_shards


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A training split of many tiny shards; each pixel of a row is the row's archive index / 1000."""
    directory = tmp_path_factory.mktemp("dataset")
    return directory, write_shards(directory)


@pytest.mark.parametrize(
    "name",
    [
        "plain", "-dash", "a b", "q'uo\"te", "ün 漢", "new\nline", "a,b", "a%20b", "a#b", "a?b", "a:b", "a*[b]",
        "$HOME;x", "back\\slash", "{x}", "@a+b=c&d", "a~b(c)!", "100%",
    ],
)  # fmt: skip
def test_shards_are_read_from_a_folder_of_any_name(dataset: tuple[Path, Manifest], tmp_path: Path, name: str) -> None:
    directory, manifest = dataset
    shutil.copytree(directory, tmp_path / name)
    for count in (1, 3):
        shards = manifest.splits["train"].shards[:count]
        rows = dict(read_shards(tmp_path / name, manifest, shards, threads=2))
        assert [rows[position].indices[0] for position in range(count)] == [shard.first_index for shard in shards]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_shard_is_read_once_and_under_its_own_position(dataset: tuple[Path, Manifest], threads: int) -> None:
    directory, manifest = dataset
    for attempt in range(15):
        # Another order and number of shards each time: the races concern the last row groups that are handed out.
        wanted = np.random.default_rng(attempt).permutation(SHARDS)[: 2 + attempt * 2]
        shards = [manifest.splits["train"].shards[number] for number in wanted]
        read = dict(read_shards(directory, manifest, shards, threads))
        assert sorted(read) == list(range(len(shards)))
        for position, rows in read.items():
            expected = shards[position].first_index + np.arange(ROWS)
            np.testing.assert_array_equal(rows.indices, expected)
            np.testing.assert_array_equal(rows.images[:, 5], (expected / 1000).astype(np.float32))
            np.testing.assert_array_equal(rows.labels, expected % 3)


@pytest.mark.parametrize("keep", [True, False])
def test_consecutive_rows_are_read_kept_or_streamed(dataset: tuple[Path, Manifest], keep: bool) -> None:
    directory, manifest = dataset
    store = ShardStore(directory, manifest, "train", threads=2, keep=keep)
    for size in (3, 11, 160):
        bounds = [(first, min(first + size, ROWS * SHARDS)) for first in range(0, ROWS * SHARDS, size)]
        for (first, last), rows in zip(bounds, store.read(consecutive(bounds, size, store.starts)), strict=True):
            np.testing.assert_array_equal(rows.indices, np.arange(first, last))
            np.testing.assert_array_equal(rows.labels, rows.indices % 3)
            np.testing.assert_array_equal(rows.images[:, 0], (rows.indices / 1000).astype(np.float32))


class WatchedStore(ShardStore):
    """A store that remembers the capacity of each of its row caches, in shards; None: all."""

    def _new_cache(self, capacity: int | None, memory: SharedMemory | None = None) -> RowCache:
        self.capacities = [*getattr(self, "capacities", ()), capacity]
        return super()._new_cache(capacity, memory)


def test_each_copied_shard_is_a_sign_of_progress(
    dataset: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow network, the shards of a group take longer than a rank may be silent."""
    directory, manifest = dataset
    copied: list[str] = []
    monkeypatch.setattr(shard_cache, "read_record", lambda folder: "in a store")
    monkeypatch.setattr(shard_cache, "local_path", lambda folder, shard: folder / shard.path)
    store = ShardStore(directory, manifest, "train", 1, False, lambda: copied.append("one"))
    for group in store._groups(range(20)):
        assert len(copied) >= len(group)
    assert len(copied) == 20


@pytest.mark.parametrize("world_size", [1, 2])
def test_kept_and_streamed_epochs_have_the_same_bits(dataset: tuple[Path, Manifest], world_size: int) -> None:
    """Both follow the row order. Batches of 7 leave a smaller last one; windows are of 2 of 40 shards, in 8 lanes."""
    directory, manifest = dataset
    for rank in range(world_size):
        kept, streamed = (WatchedStore(directory, manifest, "train", 2, keep) for keep in (True, False))
        order = RowOrder(shard_rows=kept.shard_rows, batch_size=7, seed=1, shuffle_shards=2)
        for epoch in range(2):
            first = epoch * order.steps
            calls = list(plan_calls(order, epoch, first, first + order.steps, log_every=5, max_steps=3))
            pairs = [read_epoch(store, order, epoch, calls, rank, world_size) for store in (kept, streamed)]
            expected = [order.epoch(epoch).rank_rows(call.first, call.last, rank, world_size) for call in calls]
            for one, other, rows in zip(*pairs, expected, strict=True):
                for name in ("images", "labels", "weights", "indices"):
                    assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), (epoch, name)
                np.testing.assert_array_equal(one.indices, rows)
                np.testing.assert_array_equal(one.images[..., 0].ravel(), (rows / 1000).astype(np.float32))
                assert one.images.ctypes.data % ALIGNMENT == 0
        assert kept.capacities == [None]
        assert 0 < max(capacity or SHARDS for capacity in streamed.capacities) < 0.8 * SHARDS


def test_the_next_epoch_is_read_while_the_last_calls_of_the_one_before_are_trained_on(
    dataset: tuple[Path, Manifest],
) -> None:
    """Its shards are read once the shards of the epoch before are no longer in memory."""
    arrived = []
    store = ShardStore(*dataset, "train", threads=2, keep=False, on_shard=lambda: arrived.append(1))
    order = RowOrder(shard_rows=store.shard_rows, batch_size=8, seed=1, shuffle_shards=2)
    plans = [
        (epoch, list(plan_calls(order, epoch, epoch * order.steps, (epoch + 1) * order.steps, 5, 5)))
        for epoch in range(2)
    ]
    calls = read_epochs(store, order, plans, 0, 1)
    of_first = [next(calls) for _ in plans[0][1][:-1]]
    assert sum(call.steps for call in of_first) == order.steps - plans[0][1][-1].last + plans[0][1][-1].first
    deadline = time.monotonic() + 60
    while len(arrived) <= SHARDS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rest = [next(calls), *calls]
    indices = [index for call in [*of_first, *rest] for index in call.indices.tolist()]
    assert sorted(indices[: ROWS * SHARDS]) == sorted(indices[ROWS * SHARDS :]) == list(range(ROWS * SHARDS))


def test_planning_a_late_epoch_takes_no_memory_for_earlier_ones() -> None:
    order = RowOrder(shard_rows=(100,), batch_size=1, seed=0, shuffle_shards=1)
    tracemalloc.start()
    calls = list(plan_calls(order, 20_000, 2_000_000, 3_000_000, log_every=10, max_steps=100))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert [call.first_step for call in calls] == list(range(2_000_000, 2_000_100, 10))


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.data())
def test_calls_cover_the_steps_within_bounds_and_measure_when_due(
    rows: int, batch: int, log_every: int, max_steps: int, data: st.DataObject
) -> None:
    order = RowOrder(shard_rows=(rows,), batch_size=batch, seed=0, shuffle_shards=1)
    base = 2 * order.steps
    start = data.draw(st.integers(base, base + order.steps - 1))
    stop = data.draw(st.integers(start + 1, base + 2 * order.steps))
    calls = list(plan_calls(order, 2, start, stop, log_every, max_steps))
    bounds = [calls[0].first, *(call.last for call in calls)]
    assert [call.first for call in calls] == bounds[:-1]
    assert (bounds[0] + base, bounds[-1] + base) == (start, min(stop, base + order.steps))
    assert all(0 < call.last - call.first <= max_steps and call.first_step == call.first + base for call in calls)
    assert all(order.batch_rows(call.first) == order.batch_rows(call.last - 1) for call in calls)
    full = base + rows // batch  # before a smaller last batch
    last = bounds[-1] + base
    due = {step for step in range(start + 1, last + 1) if step % log_every == 0 or step in (full, last)}
    assert {call.last + base for call in calls if call.measured} == due


def test_a_call_has_at_least_one_step_and_at_most_16_mib_of_images() -> None:
    order = RowOrder(shard_rows=(100_000,), batch_size=512, seed=0, shuffle_shards=1)
    most = [max_steps_per_execution(order, image_bytes=4 * 784, world_size=ranks) for ranks in (1, 2, 3)]
    assert most == [10, 20, 31]
    assert max_steps_per_execution(order, image_bytes=4 * 3 * 224 * 224, world_size=1) == 1


def test_reading_ahead_keeps_the_order_and_raises_what_the_thread_raises() -> None:
    def items() -> Iterator[int | None]:
        yield from (1, None, 3)
        raise ValueError("torn")

    ahead = read_ahead(items())
    assert [next(ahead) for _ in range(3)] == [1, None, 3]
    with pytest.raises(ValueError, match="torn"):
        next(ahead)


def test_the_row_cache_has_the_size_of_its_capacity_and_reuses_its_memory() -> None:
    cache = RowCache((3, 5, 4, 5), capacity=2, values=6)
    assert cache.nbytes == 2 * 5 * row_bytes(4 * 6)
    numbers = np.arange(17)
    rows = Rows(np.repeat(numbers[:, None], 6, 1).astype(np.float32), numbers.astype(np.int32), numbers * 10)
    of_shard = [
        Rows(rows.images[a:b], rows.labels[a:b], rows.indices[a:b]) for a, b in ((0, 3), (3, 8), (8, 12), (12, 17))
    ]
    for shard, evicted in ((0, None), (1, 0), (2, 1), (3, 2)):
        cache.insert(shard, of_shard[shard])
        cached = [n for n in range(4) if n in cache]
        shards, positions = np.array(cached)[:, None].repeat(3, 1).ravel(), np.tile([2, 0, 1], len(cached))
        gathered = cache.gather(shards, positions)
        expected = np.concatenate([of_shard[n].labels[[2, 0, 1]] for n in cached])
        np.testing.assert_array_equal(gathered.labels, expected)
        np.testing.assert_array_equal(gathered.images, np.repeat(expected[:, None], 6, 1))
        np.testing.assert_array_equal(gathered.indices, expected * 10)
        if evicted is not None:
            cache.evict([evicted])


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_rows_are_kept_if_they_take_less_than_the_share_of_free_memory(
    dataset: tuple[Path, Manifest], ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, manifest = dataset
    size = RowCache((ROWS,) * SHARDS, None, manifest.values_per_image).nbytes
    for free, kept in ((ranks * size * 4, False), (ranks * size * 4 + 4, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        config = TrainConfig(epochs=1, cache_share=0.25)
        assert keeps_all_rows(config, manifest, ranks) is kept
        assert keeps_all_rows(config.model_copy(update={"cache": "always"}), manifest, ranks)
        assert not keeps_all_rows(config.model_copy(update={"cache": "never"}), manifest, ranks)


def test_a_cache_larger_than_memory_is_refused_in_one_line() -> None:
    expected = r"^train.cache: found too little memory, expected 16.* GB for 1,000.* rows; fix: set train.cache=never"
    with pytest.raises(InputError, match=expected):
        RowCache((10**15,), None, 1)


IMAGE = [0.1] * 6


@pytest.mark.parametrize(
    ("columns", "description"),
    [
        # The number of values is that of three images: only the lengths of the lists are not.
        ({"image": [IMAGE[:5], IMAGE, [*IMAGE, 0.1]]}, r"images float32 \(3, 5 to 7\), expected float32 \(3, 6\)"),
        ({"image": [[*IMAGE, 0.1]] * 3}, r"images float32 \(3, 7\), expected"),
        ({"image": [IMAGE, [None, *IMAGE[1:]], IMAGE]}, r"images float32 \(3, 6\) with 1 nulls, expected"),
        ({"image": [IMAGE, None, IMAGE]}, "no image in some rows"),
        ({"label": [0, None, 1]}, "no label in some rows"),
        ({"label": pa.array([0.0, 1.0, 2.0])}, "a column label of double, expected integers"),
        ({"label": None}, "no column label"),
        ({"image": None}, "no column image"),
        ({"index": None}, "no row group that begins with archive row 0"),
        ({"image": pa.array([["a"] * 6] * 3)}, r"images string \(3, 6\), expected"),
        ({"index": [0, 1, None]}, "no index in some rows"),
        ({"image": pa.array([IMAGE] * 3, pa.list_(pa.float64()))}, r"images float64 \(3, 6\), expected"),
        ({"image": pa.array([0.1] * 3, pa.float32())}, "images of type float, expected"),
        ({"label": [0], "index": [0], "image": [IMAGE]}, r"images float32 \(1, 6\), expected float32 \(3, 6\)"),
        ({"index": [None, 1, 2]}, "no row group that begins with archive row 0"),
        ({"index": pa.array(["a", "b", "c"])}, "no row group that begins with archive row 0"),
    ],
)
def test_columns_that_do_not_match_the_manifest_are_refused(
    dataset: tuple[Path, Manifest], tmp_path: Path, columns: dict[str, Any], description: str
) -> None:
    _, manifest = dataset
    types = {"image": pa.list_(pa.float32()), "label": pa.int32(), "index": pa.int64()}
    whole = {"image": [IMAGE] * 3, "label": [0, 1, 2], "index": [0, 1, 2], **columns}
    arrays = {n: c if isinstance(c, pa.Array) else pa.array(c, types[n]) for n, c in whole.items() if c is not None}
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table(arrays), tmp_path / "train/part-00000.parquet")
    shard = manifest.splits["train"].shards[0].model_copy(update={"rows": 3})
    with pytest.raises(
        InputError, match=f"part-00000.parquet: found {description}.*; fix: remove .* and prepare it again$"
    ):
        list(read_shards(tmp_path, manifest, [shard], 1))


@pytest.mark.parametrize("damage", ["cut short", "garbled", "no Parquet"])
@pytest.mark.parametrize("damaged", [0, 7])
def test_a_damaged_file_is_named_in_one_line(
    dataset: tuple[Path, Manifest], tmp_path: Path, damaged: int, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    directory, manifest = dataset
    shards = manifest.splits["train"].shards
    shutil.copytree(directory / "train", tmp_path / "train")
    path = tmp_path / shards[damaged].path
    content = path.read_bytes()
    path.write_bytes(
        {"cut short": content[:-20], "garbled": content[:4] + b"\xff" * 40 + content[44:], "no Parquet": b"text"}[
            damage
        ]
    )
    with pytest.raises(InputError) as raised:
        list(read_shards(tmp_path, manifest, shards, 2))
    assert str(raised.value).startswith(f"{path}: found no valid Parquet (")
    assert str(raised.value).endswith(f"; fix: remove {tmp_path} and prepare it again")
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_with_other_rows_than_in_the_manifest_is_refused(dataset: tuple[Path, Manifest]) -> None:
    directory, manifest = dataset
    moved = manifest.splits["train"].shards[3].model_copy(update={"first_index": 999})
    with pytest.raises(InputError, match="found no row group that begins with archive row 999"):
        list(read_shards(directory, manifest, [moved], 2))
    short = manifest.splits["train"].shards[3].model_copy(update={"rows": ROWS + 1})
    with pytest.raises(InputError, match="found images float32"):
        list(read_shards(directory, manifest, [short], 2))
