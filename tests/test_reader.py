"""Petastorm's reader under many small shards, where its thread pool loses and swaps row groups by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.dataset import FORMAT, Manifest, Normalization, Shard
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.prepare.decode import to_batch
from jobs.train.feed import ShardStore
from jobs.train.reader import read_shards

ROWS, SHARDS = 4, 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A training split of many tiny shards; each pixel of a row is the row's archive index / 1000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    empty: dict[str, Any] = {"rows": 0, "label_counts": (0, 0, 0), "shards": ()}
    total = ROWS * SHARDS
    counts = tuple(int(n) for n in np.bincount(np.arange(total) % 3))
    manifest = Manifest.model_validate(
        {
            "format": FORMAT,
            "dataset_id": "0" * 16,
            "shape": (2, 3, 1),
            "classes": 3,
            "splits": {
                "train": {"rows": total, "label_counts": counts, "shards": shards},
                "validation": empty,
                "test": empty,
            },
            "pixels": {"mean": 0.0, "std": 1.0, "min": 0.0, "max": 1.0},
            "normalization": Normalization(rule="type-range", offset=0.0, scale=1.0),
            "duplicates": {"test_images_in_train": 0, "examples": ()},
            "sources": {},
            "options": {},
            "versions": {},
        }
    )
    return directory, manifest


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


def test_a_file_that_holds_other_rows_is_refused(dataset: tuple[Path, Manifest]) -> None:
    directory, manifest = dataset
    lying = manifest.splits["train"].shards[3].model_copy(update={"first_index": 999})
    with pytest.raises(InputError, match="found no row group that begins with archive row 999"):
        list(read_shards(directory, manifest, [lying], 2))
    short = manifest.splits["train"].shards[3].model_copy(update={"rows": ROWS + 1})
    with pytest.raises(InputError, match="found images float32"):
        list(read_shards(directory, manifest, [short], 2))
