"""The evaluate stage as a process on a tiny run, against figures counted by hand."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from jobs.dataset import FORMAT, MANIFEST, Manifest, PixelType, Shard, SplitInfo, read_manifest, shard_path
from jobs.evaluate.calibration import best_temperature
from jobs.files import sealed, sha256_file, write_json
from jobs.metrics import read_metrics
from jobs.pixels import LEVELS, to_column
from jobs.records import EvaluateOutputs
from jobs.run_dir import RunDir
from jobs.stage import read_outputs
from tests.support.schemas import require_valid

REPOSITORY = Path(__file__).parent.parent
SHAPE, WIDE = (4, 5, 1), (28, 28, 1)
# The tiny model's predictions for twelve images, counted by hand: 3 errors.
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
PREDICTED = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 0, 1]
CONFUSION = [[3, 1, 0], [0, 4, 0], [1, 1, 2]]
ORDER = [11, 3, 0, 7, 5, 1, 9, 2, 10, 4, 8, 6]  # of the images in the shards, which have 7 and 5 rows
STRENGTHS = [0.5 + i / 24 for i in range(12)]  # of the one bright pixel, so that all images differ
GAIN = 8.0  # logit of a pixel of 1
# A model whose logits are the first pixels, times GAIN.
BUILD_MODELS = f"""
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, numpy as np
for name, shape, classes in (("3", {SHAPE}, 3), ("4", {SHAPE}, 4), ("wide", {WIDE}, 3)):
    images = keras.Input(shape)
    flat = keras.layers.Dropout(0.5)(keras.layers.Flatten()(images))
    model = keras.Model(images, keras.layers.Dense(classes, activation="softmax")(flat))
    model.set_weights([np.eye(flat.shape[1], classes) * {GAIN}, np.zeros(classes)])
    model.save(f"{{sys.argv[1]}}/{{name}}.keras")
"""
HOSTILE_ID = "<script>alert(1)&[bold]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 3.keras and 4.keras, the tiny model for 3 and for 4 classes, and wide.keras."""
    folder = tmp_path_factory.mktemp("models")
    # In a separate process: once this one has imported TensorFlow, no other test can configure it.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", BUILD_MODELS, str(folder)], check=True, env=environment)
    return folder


@pytest.fixture
def run(tmp_path: Path, models: Path) -> RunDir:
    return make_run(tmp_path, models / "3.keras")


def make_run(
    work: Path,
    model: Path,
    order: Sequence[int] = ORDER,
    write: "Callable[[Path, Sequence[int]], Manifest] | None" = None,
) -> RunDir:
    """Make a run with all earlier stages done, on a dataset of two test shards. `write`: writes other shards."""
    dataset = work / "datasets" / "0123456789abcdef"
    manifest = (write or write_shards)(dataset, order)
    write_json(made(dataset / MANIFEST), sealed(manifest.model_dump(mode="json")))
    run = RunDir(work / "runs" / HOSTILE_ID)
    config = {"recipe": "tiny", "seed": 7, "fetch": {"dataset": "dots"}, "prepare": {}, "spark": {}, "train": {}}
    write_json(made(run.config_file), config | {"evaluate": {"batch_size": 5}})
    run.model_file.write_bytes(model.read_bytes())
    train: dict[str, Any] = {
        "model_sha256": sha256_file(run.model_file),
        "world_size": 2,
        "steps": 40,
        "images": 1280,
        "images_per_second": 1234.5,
        "precision": "float32",
        "validation": {"accuracy": None, "errors": None, "count": 0, "loss": None},
        "versions": {"python": "3.11.0", "tensorflow": "<b>2.18.1"},
        "weights_sha256": ["00", "00"],
    }
    for stage, outputs, seconds in (
        ("fetch", {}, 1.5),
        ("prepare", {"dataset": str(dataset)}, 2.5),
        ("train", train, 4),
    ):
        record: dict[str, Any] = {"key": stage, "outputs": outputs, "files": [], "seconds": seconds}
        write_json(made(run.record_file(stage)), sealed(record))
    return run


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_shards(dataset: Path, order: Sequence[int]) -> Manifest:
    """Write the twelve images in this order to two shards; return their manifest."""
    images = np.zeros((12, math.prod(SHAPE)), np.float32)
    images[np.arange(12), PREDICTED] = STRENGTHS
    labels = np.array(LABELS)
    shards = [
        write_shard(dataset, shard_path("test", number), images[rows], labels[rows], rows)
        for number, rows in enumerate((order[:7], order[7:]))
    ]
    return manifest_of(SHAPE, labels[order], 3, tuple(shards))


def write_shard(
    dataset: Path, name: str, images: NDArray[Any], labels: NDArray[Any] | Sequence[int], indices: Sequence[int]
) -> Shard:
    """Write images, float32 or uint8 [rows, values], to a file of a dataset."""
    path = made(dataset / name)
    columns = {
        "image": to_column(images),
        "label": pa.array(labels, pa.int32()),
        "index": pa.array(indices, pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
    size, digest = path.stat().st_size, sha256_file(path)
    return Shard(path=name, rows=len(images), first_index=indices[0], bytes=size, sha256=digest)


def manifest_of(shape: tuple[int, int, int], labels: NDArray[Any], classes: int, shards: tuple[Shard, ...]) -> Manifest:
    none = SplitInfo(rows=0, label_counts=(0,) * classes, shards=())
    counts = tuple(np.bincount(labels, minlength=classes).tolist())
    return Manifest.model_validate(
        {
            "format": FORMAT,
            "dataset_id": "0123456789abcdef",
            "shape": shape,
            "classes": classes,
            "labels": list(range(classes)),
            "class_names": list(map(str, range(classes))),
            "orientation": "none",
            "splits": {
                "train": none,
                "validation": none,
                "test": SplitInfo(rows=len(labels), label_counts=counts, shards=shards),
            },
            "pixels": {"mean": 0.1, "std": 0.2, "min": 0.0, "max": 1.0},
            "normalization": {"rule": "type-range", "offset": 0.0, "scale": 1 / 255},
            "duplicates": {"test_images_in_train": 0, "examples": ()},
            "sources": {},
            "options": {},
            "versions": {},
        }
    )


def evaluate(run: RunDir) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs.evaluate", str(run.path)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_bytes_and_the_floats_that_they_stand_for_give_the_same_result(tmp_path: Path, models: Path) -> None:
    stored = np.zeros((12, math.prod(SHAPE)), np.uint8)
    stored[np.arange(12), PREDICTED] = np.arange(100, 112)

    def write(kind: PixelType) -> Callable[[Path, Sequence[int]], Manifest]:
        def shards(dataset: Path, order: Sequence[int]) -> Manifest:
            images, labels = stored if kind == "uint8" else LEVELS[stored], np.array(LABELS)
            halves = [
                write_shard(dataset, shard_path("test", number), images[rows], labels[rows], rows)
                for number, rows in enumerate((order[:7], order[7:]))
            ]
            return manifest_of(SHAPE, labels[order], 3, tuple(halves)).model_copy(update={"pixel_type": kind})

        return shards

    kinds: tuple[PixelType, ...] = ("float32", "uint8")
    runs = [make_run(tmp_path / kind, models / "3.keras", write=write(kind)) for kind in kinds]
    for run in runs:
        done = evaluate(run)
        assert done.returncode == 0, done.stderr
    of_floats, of_bytes = (read_metrics(run) for run in runs)
    assert of_floats.test == of_bytes.test
    assert of_floats.calibration == of_bytes.calibration
    assert runs[0].predictions_file.read_bytes() == runs[1].predictions_file.read_bytes()


def test_the_stage_reports_exactly_the_models_predictions(run: RunDir) -> None:
    done = evaluate(run)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "test accuracy 0.7500 (3 errors in 12)" in done.stderr
    assert re.search(r"^ +2 +4 +1\.0000 +0\.5000$", done.stderr, re.MULTILINE)

    metrics = json.loads(run.metrics_file.read_text())
    require_valid(run.metrics_file, "metrics")
    assert read_metrics(run).model_dump(mode="json") == metrics
    test = metrics["test"]
    assert {name: test[name] for name in ("accuracy", "errors", "count", "confusion")} == {
        "accuracy": 0.75, "errors": 3, "count": 12, "confusion": CONFUSION,
    }  # fmt: skip
    assert test["classes"] == [
        {"label": 0, "name": "0", "precision": 3 / 4, "recall": 3 / 4, "support": 4},
        {"label": 1, "name": "1", "precision": 4 / 6, "recall": 1.0, "support": 4},
        {"label": 2, "name": "2", "precision": 1.0, "recall": 0.5, "support": 4},
    ]
    true_logits = [GAIN * s * (p == t) for s, p, t in zip(STRENGTHS, PREDICTED, LABELS, strict=True)]
    losses = [math.log(math.exp(GAIN * s) + 2) - logit for s, logit in zip(STRENGTHS, true_logits, strict=True)]
    assert test["loss"] == pytest.approx(sum(losses) / 12, rel=1e-5)

    assert (metrics["run_id"], metrics["recipe"], metrics["seed"]) == (HOSTILE_ID, "tiny", 7)
    assert (metrics["world_size"], metrics["dataset_id"]) == (2, "0123456789abcdef")
    assert metrics["validation"] == {"accuracy": None, "errors": None, "count": 0, "loss": None}
    assert metrics["train"] == {
        "images": 1280, "steps": 40, "batch_size": None, "kept_step": None, "ended_by": None,
        "images_per_second": 1234.5, "precision": "float32",
    }  # fmt: skip
    seconds = metrics["seconds"]
    assert list(seconds) == ["fetch", "prepare", "train", "evaluate", "total"]
    assert seconds["evaluate"] > 0.5  # importing TensorFlow alone takes longer
    assert seconds["total"] == pytest.approx(1.5 + 2.5 + 4 + seconds["evaluate"])

    record = json.loads(run.record_file("evaluate").read_text())
    assert read_outputs(run, EvaluateOutputs).test_count == 12
    assert record["outputs"] == {
        "metrics_sha256": sha256_file(run.metrics_file), "test_accuracy": 0.75, "test_errors": 3, "test_count": 12,
    }  # fmt: skip
    assert [file["path"] for file in record["files"]] == [
        str(run.metrics_file), str(run.predictions_file), str(run.report_file),
    ]  # fmt: skip

    predictions = pq.read_table(run.predictions_file).to_pydict()
    assert run.predictions_file.stat().st_mode & 0o777 == 0o600
    assert predictions["index"] == ORDER
    assert predictions["label"] == [LABELS[row] for row in ORDER]
    assert predictions["predicted"] == [PREDICTED[row] for row in ORDER]
    assert predictions["probability"] == [max(each) for each in predictions["probabilities"]]
    assert [caveat["kind"] for caveat in metrics["caveats"]] == ["few-images"]
    assert "warning: evaluate: 12 test images are few: the 95 % interval is 44.3 points wide" in done.stderr

    page = run.report_file.read_text(encoding="utf-8")
    assert "12 test images are few" in page
    assert run.report_file.stat().st_mode & 0o777 == 0o600
    assert "idxtrain run &lt;script&gt;alert(1)&amp;[bold]" in page
    assert "<script" not in page
    assert "46.77 % to 91.11 %" in page
    assert re.findall(r"test (\d+) of class (\d), predicted as (\d)", page) == [  # most confident first
        ("11", "2", "1"), ("10", "2", "0"), ("3", "0", "1"),
    ]  # fmt: skip


def add_validation(run: RunDir, labels: NDArray[Any]) -> NDArray[Any]:
    """Give the run's dataset a validation split of two shards; return the tiny model's probabilities for it.

    All images are the same: the model is quite sure that they are of class 0.
    """
    dataset = run.work.datasets / "0123456789abcdef"
    image = np.zeros(math.prod(SHAPE), np.float32)
    image[0] = 0.6
    shards = [
        write_shard(dataset, shard_path("validation", number), np.tile(image, (len(rows), 1)), labels[rows], rows)
        for number, rows in enumerate((range(5), range(5, len(labels))))
    ]
    counts = tuple(np.bincount(labels, minlength=3).tolist())
    manifest = read_manifest(dataset)
    splits = {
        **manifest.splits, "validation": SplitInfo(rows=len(labels), label_counts=counts, shards=tuple(shards))
    }  # fmt: skip
    write_json(dataset / MANIFEST, sealed(manifest.model_copy(update={"splits": splits}).model_dump(mode="json")))
    powers = np.exp([GAIN * 0.6, 0, 0])
    return np.tile(powers / powers.sum(), (len(labels), 1))


def test_what_is_chosen_for_confidence_is_chosen_on_the_validation_split(run: RunDir) -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    probabilities = add_validation(run, labels)
    done = evaluate(run)
    assert done.returncode == 0, done.stderr
    found = read_metrics(run).calibration
    assert found is not None
    assert found.temperature is not None
    assert found.temperature == pytest.approx(best_temperature(probabilities, labels), rel=1e-3)
    # At that temperature the stated confidence is the accuracy: 8 of 10.
    assert math.exp(GAIN * 0.6 / found.temperature) / 2 == pytest.approx(8 / 2, rel=1e-2)
    assert found.sure is None  # 8 of 10 is no precision of 99.9 %, at any limit
    assert len(found.bins) == 12
    assert "Temperature, chosen on validation" in run.report_file.read_text(encoding="utf-8")
    shard = run.work.datasets / "0123456789abcdef/validation/part-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b"x")
    damaged = evaluate(run)
    assert damaged.returncode == 2
    assert "validation/part-00000.parquet" in damaged.stderr


def test_without_a_validation_split_nothing_is_chosen(run: RunDir) -> None:
    assert evaluate(run).returncode == 0
    found = read_metrics(run).calibration
    assert found is not None
    assert (found.temperature, found.ece_with_temperature, found.sure) == (None, None, None)
    page = run.report_file.read_text(encoding="utf-8")
    assert "Expected calibration error" in page
    assert "Temperature, chosen" not in page
    assert "First layer" in page  # dense, on the pixels


def change_model(run: RunDir) -> str:
    run.model_file.write_bytes(run.model_file.read_bytes() + b" ")
    return "model.keras: found SHA-256"


def remove_model(run: RunDir) -> str:
    run.model_file.unlink()
    return "model.keras: cannot be read (No such file or directory)"


def corrupt_shard(run: RunDir) -> str:
    shard = run.work.datasets / "0123456789abcdef/test/part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    return "part-00001.parquet: found SHA-256"


@pytest.mark.parametrize("spoil", [change_model, remove_model, corrupt_shard])
def test_a_changed_model_or_shard_is_refused(run: RunDir, spoil: Callable[[RunDir], str]) -> None:
    expected = spoil(run)
    assert_refused(run, expected)


def test_an_image_that_occurs_twice_is_refused(tmp_path: Path, models: Path) -> None:
    twice = [1 if index == 2 else index for index in ORDER]  # of the same class, so that the label counts fit
    run = make_run(tmp_path, models / "3.keras", twice)
    assert_refused(run, "found index 1 more than once (1 too many in all), expected each once")


@pytest.mark.long
def test_a_model_for_other_classes_is_refused(tmp_path: Path, models: Path) -> None:
    run = make_run(tmp_path, models / "4.keras")
    assert_refused(run, "found a model that returns float32 [batch, 4], expected float32 [batch, 3] as in the dataset")


def test_the_training_record_of_an_older_version_is_refused_in_one_line(run: RunDir) -> None:
    path = run.record_file("train")
    record = json.loads(path.read_text())
    del record["sha256"], record["outputs"]["precision"]
    write_json(path, sealed(record))
    assert_refused(run, f"{path}: found no precision, expected the record of this version; fix: remove {path} and run")


def test_test_images_beyond_memory_are_refused_before_reading(run: RunDir) -> None:
    file = run.work.datasets / "0123456789abcdef" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    test = manifest["splits"]["test"]
    test["rows"] += 10**12
    test["label_counts"][0] += 10**12
    test["shards"][1]["rows"] += 10**12
    write_json(file, sealed(manifest))
    assert_refused(run, " GB of free memory, expected 80000.00 GB for 1,000,000,000,012 test images; fix: end other")


def assert_refused(run: RunDir, expected: str) -> None:
    """Check that evaluation ends with exit code 2 and one line, and writes nothing."""
    done = evaluate(run)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("idxtrain:")]
    assert expected in line
    assert not run.metrics_file.exists()
    assert not run.record_file("evaluate").exists()
