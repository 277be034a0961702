"""The evaluate stage: a run's model on its dataset's test split, exactly; the figures and the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.evaluate.compare import write_comparison
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.metrics import summarize
from jobs.evaluate.predict import Predictions, load_model, predict
from jobs.evaluate.report import write_report
from jobs.evaluate.table import show
from jobs.files import sha256_file, write_json
from jobs.memory import free_memory
from jobs.run_dir import RunDir
from jobs.stage import STAGES, read_record, seconds_since_start
from jobs.tensorflow_import import import_tensorflow

_FIGURES = ("images", "steps", "images_per_second", "precision")  # of the training, for metrics.json
_TRAINED = ("model_sha256", "world_size", "validation", "versions", *_FIGURES)  # all that is needed of its record


def evaluate(run: RunDir, config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a run, write metrics.json and report.html, tell the result on stderr; return what metrics.json holds.

    Raises InputError where the model, the dataset and the records of the stages before do not fit together.
    """
    directory = Path(read_record(run, "prepare").outputs["dataset"])
    manifest = read_manifest(directory)
    trained = _trained(run)
    _check_model_file(run.model_file, trained["model_sha256"])
    images, labels, indices = _read_test_split(directory, manifest)
    import_tensorflow(run.logs / "tensorflow.log")
    model = load_model(run.model_file, manifest.shape, manifest.classes)
    predictions = Predictions(images, labels, indices, predict(model, images, config.batch_size))
    metrics = _metrics(run, manifest, trained, summarize(predictions.probabilities, labels))
    write_json(run.metrics_file, metrics)
    write_report(run, metrics, manifest, predictions)
    if config.compare:
        write_comparison(run, config, manifest, predictions)
    show(metrics["test"])
    return metrics


def _trained(run: RunDir) -> dict[str, Any]:
    """Return what training put out; raise InputError where that was a version that told less."""
    trained = read_record(run, "train").outputs
    missing = [name for name in _TRAINED if name not in trained]
    if missing:
        path = run.record_file("train")
        raise InputError(
            f"{path}: found no {', '.join(missing)}, expected what this version's training records; remove {path} and "
            "train the run again"
        )
    return trained


def _check_model_file(path: Path, expected: str) -> None:
    try:
        found = sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); train the run again") from error
    if found != expected:
        raise InputError(
            f"{path}: found SHA-256 {found[:12]}…, but training wrote {expected[:12]}…; put that file back, "
            "or remove this one and train again"
        )


def _read_test_split(directory: Path, manifest: Manifest) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the test split as `read_split` does, once it is sure that each image is there exactly once."""
    _require_memory(directory, manifest)
    verify(directory, manifest, "test")
    images, labels, indices = read_split(directory, manifest, "test")
    problem = _contradiction(labels, indices, manifest)
    if problem:
        raise InputError(f"{directory / 'test'}: {problem}; remove {directory} and prepare it again")
    return images, labels, indices


def _require_memory(directory: Path, manifest: Manifest) -> None:
    """Raise InputError where the test images do not fit into memory, which the kernel would end this process for."""
    test, values = manifest.splits["test"], manifest.values_per_image
    held = test.rows * (4 * values + 4 + 8 + 4 * manifest.classes)  # images, labels, indices, probabilities
    read = 2 * 4 * values * max((shard.rows for shard in test.shards), default=0)  # one shard as Arrow has it, twice
    needed, free = held + read, free_memory()
    if needed > free:
        raise InputError(
            f"{directory / 'test'}: found {free / 1e9:.2f} GB of free memory, expected {needed / 1e9:.2f} GB for "
            f"{test.rows:,} test images; end what else takes it, or evaluate where there is more"
        )


def _contradiction(labels: NDArray[Any], indices: NDArray[Any], manifest: Manifest) -> str | None:
    rows = manifest.splits["test"].rows
    if not rows:
        return "found no test images, expected at least one"
    missing = np.setdiff1d(np.arange(rows), indices)
    if len(missing):  # as many rows as expected, so another index is there twice, or is none of the test split's
        return f"index {missing[0]} is not there ({len(missing)} in all), expected each of 0 to {rows - 1} once"
    if labels.min() < 0 or labels.max() >= manifest.classes:
        return f"found labels from {labels.min()} to {labels.max()}, expected 0 to {manifest.classes - 1}"
    counts = np.bincount(labels, minlength=manifest.classes).tolist()
    if counts != list(manifest.splits["test"].label_counts):
        return f"found label counts {counts}, expected {list(manifest.splits['test'].label_counts)}"
    return None


def _metrics(run: RunDir, manifest: Manifest, trained: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of metrics.json: `test` and what the config and the earlier stages' records say."""
    config = run.read_config()
    seconds = {stage: read_record(run, stage).seconds for stage in STAGES[:-1]}
    seconds[STAGES[-1]] = round(seconds_since_start(), 3)
    return {
        "run_id": run.run_id,
        "recipe": config["recipe"],
        "seed": config["seed"],
        "world_size": trained["world_size"],
        "dataset_id": manifest.dataset_id,
        "test": test,
        "validation": trained["validation"],
        "train": {name: trained[name] for name in _FIGURES},
        "seconds": seconds | {"total": round(sum(seconds.values()), 3)},
        "versions": trained["versions"],
    }
