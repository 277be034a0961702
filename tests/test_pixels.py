"""Pixels stored as bytes: the same images, findings and weights as with float32, in a quarter of the memory."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from jobs.batches import read_images, read_rows
from jobs.dataset import MANIFEST, SPLITS, Manifest, PixelType, Shard, read_manifest, read_shard, read_split, verify
from jobs.demo.gallery import Gallery
from jobs.errors import InputError
from jobs.files import sealed, sha256_file, write_json
from jobs.pixels import LEVELS, from_column, to_column, to_float
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import normalize, to_batch
from jobs.prepare.findings.finding import CSV, JSON
from jobs.prepare.stage import dataset_id, prepare
from jobs.prepare.survey import NORMALIZATION_OF_BYTES
from jobs.run_dir import Work
from jobs.train.compute.normalize import normalized
from jobs.train.compute.step import StepOptions
from jobs.train.config import TrainConfig
from jobs.train.data.calls import plan_calls, read_epochs
from jobs.train.data.order import RowOrder
from jobs.train.data.reader import read_shards
from jobs.train.data.row_cache import RowCache, keeps_all_rows
from jobs.train.data.shard_cache import ShardStore
from pipelines.config import compose
from pipelines.plan import lines, plan_training
from tests.conftest import MakeArchives
from tests.support.prepared import NO_SPARK, Made, bare_manifest
from tests.test_evaluation import made_of, put_pair
from tests.test_step import IMAGES, RATE, make, share

BYTES = np.arange(256, dtype=np.uint8)


# --- one image


def test_the_graph_gives_each_byte_the_bits_of_the_correctly_rounded_quotient() -> None:
    """Also with the standardization of a model behind it, which a graph's optimizer would merge with a division."""
    quotients = BYTES.astype(np.float32) / np.float32(255)
    assert LEVELS.tobytes() == quotients.tobytes() == normalize(BYTES, NORMALIZATION_OF_BYTES).tobytes()

    @tf.function
    def graph(stored: tf.Tensor, floats: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return normalized(stored), (normalized(stored) - 0.1307) * 3.2453, (floats - 0.1307) * 3.2453

    alone, standardized, expected = graph(tf.constant(BYTES), tf.constant(quotients))
    assert alone.numpy().tobytes() == quotients.tobytes()
    assert standardized.numpy().tobytes() == expected.numpy().tobytes()


@given(arrays.arrays(st.sampled_from([np.uint8, np.float32]), st.tuples(*[st.integers(1, 5)] * 3)), st.integers(0, 4))
def test_images_come_back_from_a_column_also_from_a_part_of_it(images: NDArray[Any], first: int) -> None:
    first = min(first, len(images) - 1)
    column = to_column(images)
    assert pa.types.is_fixed_size_binary(column.type) == (images.dtype == np.uint8)
    read = from_column(column.slice(first))
    assert read.dtype == images.dtype
    assert read.tobytes() == images[first:].tobytes()
    assert to_float(read).dtype == np.float32


# --- the dataset


@pytest.fixture
def both(made: Callable[[str], Made]) -> tuple[Made, Made]:
    """Return the datasets of the same archives with pixels of float32 and of uint8."""
    return made("uint8-gz"), made("uint8-bytes")


def test_both_datasets_hold_the_same_images_findings_and_statistics(both: tuple[Made, Made]) -> None:
    floats, stored = both
    for split in SPLITS:
        for one, other in zip(*(read_split(each.directory, each.manifest, split) for each in both), strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    for name in (CSV, JSON):
        assert (floats.directory / name).read_bytes() == (stored.directory / name).read_bytes()
    manifests = [each.manifest.model_dump(exclude={"dataset_id", "pixel_type", "splits"}) for each in both]
    assert manifests[0] == manifests[1]
    assert [each.manifest.pixel_type for each in both] == ["float32", "uint8"]
    column = pq.ParquetFile(stored.directory / "train/part-00000.parquet")
    assert column.schema_arrow.field("image").type == pa.binary(240)
    assert column.metadata.row_group(0).column(0).compression == "LZ4"


RAGGED: dict[str, tuple[Callable[[list[bytes]], pa.Array], str]] = {
    # The number of values is that of all images: only where each begins is not.
    "list": (lambda rows: pa.array([[*row] for row in rows], pa.list_(pa.uint8())), r"uint8 \(\d+, 47 to 49\)"),
    "binary": (lambda rows: pa.array(rows, pa.binary()), "of type binary"),
    "large_binary": (lambda rows: pa.array(rows, pa.large_binary()), "of type large_binary"),
}


@pytest.mark.parametrize("kind", RAGGED)
def test_bytes_of_differing_lengths_are_refused(both: tuple[Made, Made], tmp_path: Path, kind: str) -> None:
    directory, manifest = tmp_path / "dataset", both[1].manifest
    shutil.copytree(both[1].directory, directory)
    shard = manifest.splits["test"].shards[0]
    table = pq.read_table(directory / shard.path)
    first, second, *rest = table["image"].to_pylist()
    column, found = RAGGED[kind]
    size = manifest.values_per_image
    table = table.set_column(0, "image", column([first[:-1], second + b"\0", *rest]))
    pq.write_table(table, directory / shard.path)
    refusal = rf"part-00000\.parquet: found (images {found}|\d+ rows of \d+ values in all), expected .*; fix: remove "
    for read in (
        lambda: list(read_images(directory, manifest, "test", [range(manifest.splits["test"].rows)])),
        lambda: read_rows(directory, manifest, "test", [0]),
        lambda: read_split(directory, manifest, "test"),
        lambda: read_shard(directory, manifest, shard),
    ):
        with pytest.raises(InputError, match=refusal.replace("47 to 49", f"{size - 1} to {size + 1}")):
            read()


def test_the_demo_shows_images_of_bytes(both: tuple[Made, Made]) -> None:
    galleries = [Gallery(each.directory, each.manifest, None) for each in both]
    for one, other in ([each.image(7) for each in galleries], [each.sample(64) for each in galleries]):
        assert one.dtype == np.float32
        assert one.tobytes() == other.tobytes()


def test_a_test_pair_is_stored_as_the_dataset_of_its_model(both: tuple[Made, Made], tmp_path: Path) -> None:
    images, labels = both[1].archive_arrays("test")
    seen = both[1].archive_arrays("train")[0][[0, 599]]  # one is in the validation split, one in training
    folder = put_pair(tmp_path / "new", np.concatenate([images[:4], seen]).swapaxes(1, 2), (*labels[:4].tolist(), 0, 0))
    manifest, made, *_ = made_of(folder, both[1].directory, orientation="transpose")
    assert (manifest.pixel_type, manifest.duplicates.test_rows) == ("uint8", (4, 5))
    assert made[:4, ..., 0].tobytes() == LEVELS[images[:4]].tobytes()


def test_only_bytes_change_the_dataset_id_which_is_older_than_the_option(both: tuple[Made, Made]) -> None:
    floats, stored = both
    assert "pixels" not in floats.config.content()
    assert stored.config.content() == floats.config.content() | {"pixels": "uint8"}
    assert dataset_id(floats.config, stored.archives) == floats.directory.name != stored.directory.name


def test_archives_of_other_types_are_refused_before_spark_and_before_there_is_a_run(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    archives = make_archives(tmp_path / "data", (6, 8), dtype="int16", train=40, test=12)
    words = r"^prepare\.pixels: found uint8 for train_images 40 x 6 x 8 of int16, expected archives of uint8; fix: "
    with pytest.raises(InputError, match=words):
        prepare(PrepareConfig(pixels="uint8"), NO_SPARK, archives, Work(tmp_path / "work"))
    settings = {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data", "prepare.pixels": "uint8"}
    with pytest.raises(InputError, match=words):
        plan_training(compose("fast", settings), Work(tmp_path), 1)


def test_the_plan_shows_the_memory_of_all_rows_in_both_types(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (20, 25), train=1000, test=12)
    settings = {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data"}
    texts = ["\n".join(lines(plan_training(compose("fast", each), Work(tmp_path), 1))) for each in (
        settings, settings | {"prepare.pixels": "uint8"}
    )]  # fmt: skip
    assert "memory      2.0 MB for all rows on each node (0.5 MB with prepare.pixels=uint8)" in texts[0]
    assert "memory      0.5 MB for all rows on each node\n" in texts[1]
    make_archives(tmp_path / "data", (20, 25), train=1000, test=12, dtype="int16")
    assert "pixels=uint8" not in "\n".join(lines(plan_training(compose("fast", settings), Work(tmp_path), 1)))


def test_a_manifest_of_bytes_with_another_normalization_is_refused(both: tuple[Made, Made], tmp_path: Path) -> None:
    raw = both[1].manifest.model_dump(mode="json")
    write_json(tmp_path / MANIFEST, sealed(raw | {"normalization": raw["normalization"] | {"rule": "train-range"}}))
    with pytest.raises(InputError, match="found pixels of uint8 with the rule train-range, expected type-range"):
        read_manifest(tmp_path)


def test_a_dataset_whose_files_are_of_another_type_than_its_manifest_is_refused(both: tuple[Made, Made]) -> None:
    for one, other in (both, both[::-1]):
        mixed = one.manifest.model_copy(update={"pixel_type": other.manifest.pixel_type})
        found, expected = (each.manifest.pixel_type for each in (one, other))
        verify(one.directory, mixed, "test")
        with pytest.raises(
            InputError, match=rf"found images {found} \(\d+, 240\), expected {expected} \(.*; fix: remove "
        ):
            read_split(one.directory, mixed, "test")
        with pytest.raises(InputError, match=rf"found images {found} \(\d+, 240\), expected {expected} \(\d+, 240\)"):
            list(read_shards(one.directory, mixed, mixed.splits["test"].shards, 1))


# --- from shards to weights


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Manifest]:
    """A training split of 10 shards of 6 rows; each byte of a row is the row's archive index."""
    (tmp_path / "train").mkdir()
    made = []
    for number in range(10):
        rows = np.arange(number * 6, (number + 1) * 6)
        path = tmp_path / f"train/part-{number:05d}.parquet"
        images = np.repeat(rows[:, None], 70, 1).astype(np.uint8)
        pq.write_table(pa.Table.from_batches([to_batch(images, rows % 3, rows)]), path)
        made.append(
            Shard(path=f"train/{path.name}", rows=6, first_index=int(rows[0]), bytes=path.stat().st_size,
                  sha256=sha256_file(path))
        )  # fmt: skip
    manifest = bare_manifest((7, 10, 1), 3, {"rows": 60, "label_counts": (20, 20, 20), "shards": tuple(made)})
    return tmp_path, manifest.model_copy(update={"pixel_type": "uint8"})


@pytest.mark.parametrize("keep", [True, False])
def test_graph_calls_carry_bytes_kept_or_streamed(shards: tuple[Path, Manifest], keep: bool) -> None:
    store = ShardStore(*shards, "train", threads=2, keep=keep)
    order = RowOrder(shard_rows=store.shard_rows, batch_size=7, seed=1, shuffle_shards=2)
    seen = []
    for rank in range(2):
        calls = plan_calls(order, 0, 0, order.steps, log_every=5, max_steps=3)
        for call in read_epochs(store, order, [(0, calls)], rank, 2):
            assert call.images.dtype == np.uint8
            rows = call.images[call.weights > 0]
            assert (rows == call.indices.astype(np.uint8)[:, None]).all()
            seen += call.indices.tolist()
    assert sorted(seen) == list(range(60))


def test_the_row_cache_of_bytes_takes_a_quarter_of_the_memory(
    shards: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, manifest = shards
    caches = [RowCache((6,) * 10, None, 70), RowCache((6,) * 10, None, 70, "uint8")]
    assert [cache.nbytes for cache in caches] == [60 * (4 * 70 + 12), 60 * (70 + 12)]
    monkeypatch.setattr("jobs.train.data.row_cache.free_memory", lambda: 2 * caches[1].nbytes)
    config = TrainConfig(epochs=1, cache_share=0.6)
    assert keeps_all_rows(config, manifest, 1)
    assert not keeps_all_rows(config, manifest.model_copy(update={"pixel_type": "float32"}), 1)


@pytest.mark.parametrize("options", [StepOptions(), StepOptions(slices=3)])
def test_a_step_on_bytes_has_the_bits_of_one_on_floats(options: StepOptions) -> None:
    stored = np.rint(IMAGES * 255).astype(np.uint8)
    results = []
    types: tuple[PixelType, ...] = ("float32", "uint8")
    for images, pixels in zip((to_float(stored), stored), types, strict=True):
        model, step = make(options=replace(options, pixels=pixels))
        result = step(replace(share(0, 12), images=images), RATE)
        results.append([result.loss_sums.tobytes(), result.correct, *(each.tobytes() for each in model.get_weights())])
    assert results[0] == results[1]
