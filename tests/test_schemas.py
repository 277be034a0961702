"""The contract of metrics.json, and the JSON schemas of the public files."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InputError
from jobs.files import write_json
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from jobs.schemas import FOLDER, schemas, write_schemas

METRICS: dict[str, Any] = {
    "run_id": "r1",
    "recipe": "fast",
    "seed": 1,
    "world_size": 1,
    "dataset_id": "0123456789abcdef",
    "data": None,
    "test": {
        "accuracy": 0.5,
        "errors": 1,
        "count": 2,
        "ci95": [0.1, 0.9],
        "loss": 0.7,
        "classes": [{"label": 0, "name": "A", "precision": 0.5, "recall": None, "support": 0}],
        "unseen": None,
        "confusion": [[2]],
    },
    "calibration": {
        "bins": [{"count": 2, "confidence": 0.75, "accuracy": 0.5}],
        "ece": 0.25,
        "temperature": 1.5,
        "ece_with_temperature": 0.125,
        "sure": {
            "precision_on_validation": 0.999,
            "confidence": 0.875,
            "count": 1,
            "share": 0.5,
            "errors": 0,
            "precision": 1.0,
        },
    },
    "caveats": [{"kind": "few-images", "text": "2 test images are few", "figures": {"count": 2.0, "width": None}}],
    "validation": {"accuracy": None, "errors": None, "loss": None, "count": 0},
    "train": {
        "images": 100,
        "steps": 10,
        "batch_size": 10,
        "kept_step": 5,
        "ended_by": "early-stopping",
        "images_per_second": 5.0,
        "precision": "float32",
    },
    "seconds": {"fetch": 1.0, "prepare": 1.0, "train": 1.0, "evaluate": 1.0, "total": 4.0},
    "versions": {"python": "3.11.9"},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_committed_schemas_are_fresh(tmp_path: Path) -> None:
    """`python -m jobs.schemas` updates them."""
    write_schemas(tmp_path)
    assert {path.name for path in FOLDER.glob("*.json")} == schemas().keys()
    for name in schemas():
        assert (FOLDER / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")


def test_metrics_round_trip_through_their_model(run: RunDir) -> None:
    write_json(run.metrics_file, METRICS)
    assert json.dumps(read_metrics(run).model_dump(mode="json")) == json.dumps(METRICS)


def test_metrics_of_a_newer_version_are_read_without_their_new_keys(run: RunDir) -> None:
    write_json(run.metrics_file, METRICS)
    expected = read_metrics(run)
    write_json(run.metrics_file, METRICS | {"new": 1, "train": METRICS["train"] | {"new": 2}})
    assert read_metrics(run) == expected


def test_metrics_of_a_version_without_calibration_are_read(run: RunDir) -> None:
    write_json(run.metrics_file, {key: value for key, value in METRICS.items() if key != "calibration"})
    assert read_metrics(run).calibration is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "found no such file; fix: run `idxtrain evaluate --run-id "),
        ({key: value for key, value in METRICS.items() if key != "seed"}, "seed: Field required; fix: run `idxtrain"),
        (METRICS | {"test": METRICS["test"] | {"accuracy": 1.5}}, "test.accuracy: Input should be less than or equal"),
    ],
)
def test_missing_or_invalid_metrics_are_refused_in_one_line(run: RunDir, content: object, words: str) -> None:
    if content is not None:
        write_json(run.metrics_file, content)
    with pytest.raises(InputError) as caught:
        read_metrics(run)
    assert str(caught.value).startswith(f"{run.metrics_file}: {words}")
    assert "\n" not in str(caught.value)
