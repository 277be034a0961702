"""Petastorm's reader under many small shards, where its thread pool loses and swaps row groups by itself."""

import shutil
import tracemalloc
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

from jobs.dataset import Manifest, Shard
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.prepare.decode import to_batch
from jobs.train.config import TrainConfig
from jobs.train.data.feed import ShardStore, Uses, most_steps, read_epoch, spans
from jobs.train.data.order import RowOrder
from jobs.train.data.reader import Rows, read_shards
from jobs.train.data.row_cache import ALIGNMENT, HeldRows, keep_in_memory, row_bytes
from tests.support.prepared import bare_manifest

ROWS, SHARDS = 4, 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A training split of many tiny shards; each pixel of a row is the row's archive index / 1000."""
    directory = tmp_path_factory.mktemp("dataset")
    (directory / "train").mkdir()
    shards = []
    for number in range(SHARDS):
        rows = np.arange(number * ROWS, (number + 1) * ROWS)
        images = np.repeat(rows[:, None] / 1000, 6, axis=1).astype(np.float32)
        path = directory / f"train/part-{number:05d}.parquet"
        pq.write_table(pa.Table.from_batches([to_batch(images, rows % 3, rows)]), path)
        shards.append(
            Shard(path=f"train/{path.name}", rows=ROWS, first_index=int(rows[0]), bytes=path.stat().st_size,
                  sha256=sha256_file(path))
        )  # fmt: skip
    total = ROWS * SHARDS
    counts = tuple(int(n) for n in np.bincount(np.arange(total) % 3))
    return directory, bare_manifest((2, 3, 1), 3, {"rows": total, "label_counts": counts, "shards": tuple(shards)})


@pytest.mark.parametrize(
    "name",
    [
        "plain", "-dash", "a b", "q'uo\"te", "ün 漢", "new\nline", "a,b", "a%20b", "a#b", "a?b", "a:b", "a*[b]",
        "$HOME;x", "back\\slash", "{x}", "@a+b=c&d", "a~b(c)!", "100%",
    ],
)  # fmt: skip
def test_shards_are_read_in_a_folder_of_any_name(dataset: tuple[Path, Manifest], tmp_path: Path, name: str) -> None:
    directory, manifest = dataset
    shutil.copytree(directory, tmp_path / name)
    for count in (1, 3):
        shards = manifest.splits["train"].shards[:count]
        found = dict(read_shards(tmp_path / name, manifest, shards, threads=2))
        assert [found[place].indices[0] for place in range(count)] == [shard.first_index for shard in shards]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_shard_comes_once_and_is_what_it_is_said_to_be(dataset: tuple[Path, Manifest], threads: int) -> None:
    directory, manifest = dataset
    for attempt in range(15):
        # Another order and another number each time: the races hide in the last ones handed out.
        wanted = np.random.default_rng(attempt).permutation(SHARDS)[: 2 + attempt * 2]
        shards = [manifest.splits["train"].shards[number] for number in wanted]
        found = dict(read_shards(directory, manifest, shards, threads))
        assert sorted(found) == list(range(len(shards)))
        for place, rows in found.items():
            expected = shards[place].first_index + np.arange(ROWS)
            np.testing.assert_array_equal(rows.indices, expected)
            np.testing.assert_array_equal(rows.images[:, 5], (expected / 1000).astype(np.float32))
            np.testing.assert_array_equal(rows.labels, expected % 3)


@pytest.mark.parametrize("keep", [True, False])
def test_rows_come_in_the_order_asked_for_kept_or_streamed(dataset: tuple[Path, Manifest], keep: bool) -> None:
    directory, manifest = dataset
    store = ShardStore(directory, manifest, "train", threads=2, keep=keep)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(ROWS * SHARDS)
        chunks = np.array_split(order, 7)
        for chunk, rows in zip(chunks, store.read(chunks), strict=True):
            np.testing.assert_array_equal(rows.indices, chunk)
            np.testing.assert_array_equal(rows.labels, chunk % 3)
            np.testing.assert_array_equal(rows.images[:, 0], (chunk / 1000).astype(np.float32))


class Watched(ShardStore):
    """A store that tells for how many shards at once it took memory; None: for all."""

    def _room(self, at_once: int | None) -> HeldRows:
        self.rooms = [*getattr(self, "rooms", ()), at_once]
        return super()._room(at_once)


@pytest.mark.parametrize("world_size", [1, 2])
def test_kept_and_streamed_epochs_are_the_same_bits(dataset: tuple[Path, Manifest], world_size: int) -> None:
    """Also against the order itself: batches of 7 leave a smaller last one; windows of 2 of 40 shards, 8 lanes."""
    directory, manifest = dataset
    for rank in range(world_size):
        kept, streamed = (Watched(directory, manifest, "train", 2, keep) for keep in (True, False))
        order = RowOrder(kept.shard_rows, batch_size=7, seed=1, shuffle_shards=2)
        for epoch in range(2):
            first = epoch * order.steps
            calls = spans(order, epoch, first, first + order.steps, log_every=5, most=3)
            pairs = [read_epoch(store, order, epoch, calls, rank, world_size) for store in (kept, streamed)]
            expected = [order.epoch(epoch).rank_rows(span.first, span.last, rank, world_size) for span in calls]
            for one, other, rows in zip(*pairs, expected, strict=True):
                for name in ("images", "labels", "weights", "indices"):
                    assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), (epoch, name)
                np.testing.assert_array_equal(one.indices, rows)
                np.testing.assert_array_equal(one.images[..., 0].ravel(), (rows / 1000).astype(np.float32))
                assert one.images.ctypes.data % ALIGNMENT == 0
        assert kept.rooms == [None]
        assert 0 < max(at_once or SHARDS for at_once in streamed.rooms) < 0.8 * SHARDS


def test_the_calls_of_a_late_epoch_take_no_memory_for_those_before() -> None:
    order = RowOrder((100,), 1, seed=0, shuffle_shards=1)
    tracemalloc.start()
    calls = spans(order, 20_000, 2_000_000, 3_000_000, log_every=10, most=100)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert [span.start for span in calls] == list(range(2_000_000, 2_000_100, 10))


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.data())
def test_calls_have_few_steps_and_measurements_come_as_often_as_asked(
    rows: int, batch: int, log_every: int, most: int, data: st.DataObject
) -> None:
    order = RowOrder((rows,), batch, seed=0, shuffle_shards=1)
    base = 2 * order.steps
    start = data.draw(st.integers(base, base + order.steps - 1))
    stop = data.draw(st.integers(start + 1, base + 2 * order.steps))
    found = spans(order, 2, start, stop, log_every, most)
    bounds = [found[0].first, *(span.last for span in found)]
    assert [span.first for span in found] == bounds[:-1]
    assert (bounds[0] + base, bounds[-1] + base) == (start, min(stop, base + order.steps))
    assert all(0 < span.last - span.first <= most and span.start == span.first + base for span in found)
    assert all(order.batch_rows(span.first) == order.batch_rows(span.last - 1) for span in found)
    full = base + rows // batch  # where a smaller last batch follows
    last = bounds[-1] + base
    wanted = {step for step in range(start + 1, last + 1) if step % log_every == 0 or step in (full, last)}
    assert {span.last + base for span in found if span.measured} == wanted


def test_a_call_carries_no_more_rows_than_memory_should_hold_and_one_step_at_least() -> None:
    order = RowOrder((100_000,), 512, seed=0, shuffle_shards=1)
    assert [most_steps(order, 784, ranks) for ranks in (1, 2, 3)] == [10, 20, 31]
    assert most_steps(order, 3 * 224 * 224, 1) == 1


def test_shards_are_held_from_their_first_use_to_their_last() -> None:
    uses = Uses.of([[1, 3], [], [0, 3], [2], [0]])
    assert (list(uses.first), uses.last, uses.at_once) == ([1, 3, 0, 2], {1: 0, 3: 2, 0: 4, 2: 3}, 2)
    assert Uses.of([]).at_once == 0
    # Where one window of rows ends and the next begins, the shards of both are not held together.
    assert Uses.of([[0, 1], [0, 1, 2, 3], [2, 3]]).at_once == 2
    assert Uses.of([[0, 1], [0, 2, 3], [1, 2]]).at_once == 3


def test_memory_is_that_of_the_shards_held_at_once_and_is_used_again() -> None:
    held = HeldRows((3, 5, 4, 5), at_once=2, values=6)
    assert held.nbytes == 2 * 5 * row_bytes(6)
    numbers = np.arange(17)
    rows = Rows(np.repeat(numbers[:, None], 6, 1).astype(np.float32), numbers.astype(np.int32), numbers * 10)
    parts = [
        Rows(rows.images[a:b], rows.labels[a:b], rows.indices[a:b]) for a, b in ((0, 3), (3, 8), (8, 12), (12, 17))
    ]
    for shard, gone in ((0, None), (1, 0), (2, 1), (3, 2)):
        held.put(shard, parts[shard])
        before = [n for n in range(4) if n in held]
        shards, places = np.array(before)[:, None].repeat(3, 1).ravel(), np.tile([2, 0, 1], len(before))
        found = held.take(shards, places)
        wanted = np.concatenate([parts[n].labels[[2, 0, 1]] for n in before])
        np.testing.assert_array_equal(found.labels, wanted)
        np.testing.assert_array_equal(found.images, np.repeat(wanted[:, None], 6, 1))
        np.testing.assert_array_equal(found.indices, wanted * 10)
        if gone is not None:
            held.drop(gone)


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_is_kept_where_it_takes_less_than_the_share_of_what_is_free(
    dataset: tuple[Path, Manifest], ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, manifest = dataset
    takes = HeldRows((ROWS,) * SHARDS, None, manifest.values_per_image).nbytes
    for free, kept in ((ranks * takes * 4, False), (ranks * takes * 4 + 4, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        config = TrainConfig(epochs=1, cache_share=0.25)
        assert keep_in_memory(config, manifest, ranks) is kept
        assert keep_in_memory(config.model_copy(update={"cache": "always"}), manifest, ranks)
        assert not keep_in_memory(config.model_copy(update={"cache": "never"}), manifest, ranks)


def test_more_than_the_machine_can_hold_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^train.cache: found no memory for 1,000.* rows, 16.* GB; set it to never"):
        HeldRows((10**15,), None, 1)


IMAGE = [0.1] * 6


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        # As many values as three images have: only the lists' lengths tell.
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
def test_rows_that_are_no_images_are_refused(
    dataset: tuple[Path, Manifest], tmp_path: Path, columns: dict[str, Any], found: str
) -> None:
    _, manifest = dataset
    types = {"image": pa.list_(pa.float32()), "label": pa.int32(), "index": pa.int64()}
    whole = {"image": [IMAGE] * 3, "label": [0, 1, 2], "index": [0, 1, 2], **columns}
    arrays = {n: c if isinstance(c, pa.Array) else pa.array(c, types[n]) for n, c in whole.items() if c is not None}
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table(arrays), tmp_path / "train/part-00000.parquet")
    shard = manifest.splits["train"].shards[0].model_copy(update={"rows": 3})
    with pytest.raises(InputError, match=f"part-00000.parquet: found {found}.* prepare it again$"):
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
    assert str(raised.value).startswith(f"{path}: cannot be read (")
    assert str(raised.value).endswith(f"; remove {tmp_path} and prepare it again")
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_that_holds_other_rows_is_refused(dataset: tuple[Path, Manifest]) -> None:
    directory, manifest = dataset
    lying = manifest.splits["train"].shards[3].model_copy(update={"first_index": 999})
    with pytest.raises(InputError, match="found no row group that begins with archive row 999"):
        list(read_shards(directory, manifest, [lying], 2))
    short = manifest.splits["train"].shards[3].model_copy(update={"rows": ROWS + 1})
    with pytest.raises(InputError, match="found images float32"):
        list(read_shards(directory, manifest, [short], 2))
