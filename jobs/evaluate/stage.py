"""The evaluate stage: a run's model on its dataset's test split, each image once; the figures and the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.evaluate.calibration import calibration
from jobs.evaluate.caveats import caveats
from jobs.evaluate.compare import write_comparison
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.layers import layer_pictures
from jobs.evaluate.metrics import shown_names, summarize
from jobs.evaluate.predict import Forward, Predictions, load_model
from jobs.evaluate.predictions import write_predictions
from jobs.evaluate.report import write_report
from jobs.evaluate.table import show
from jobs.evaluate.validation import chosen_for
from jobs.files import sha256_file, write_json
from jobs.memory import free_memory
from jobs.metrics import CalibrationMetrics, Caveat, Metrics, StageSeconds, TestData, TestMetrics, TrainMetrics
from jobs.places import Places
from jobs.progress import Progress
from jobs.records import TrainOutputs
from jobs.run_dir import RunDir
from jobs.stage import STAGES, dataset_of, read_outputs, read_record, seconds_since_start
from jobs.tensorflow_import import import_tensorflow


def evaluate(run: RunDir, config: EvaluateConfig) -> Metrics:
    """Evaluate a run, write metrics.json and report.html, show the result on stderr, and return the metrics.

    Raises InputError unless the model, the dataset and the records of earlier stages fit together.
    """
    directory = dataset_of(run)
    manifest = read_manifest(directory)
    trained = read_outputs(run.origin, TrainOutputs)
    _check_model_file(run.origin.model_file, trained.model_sha256)
    images, labels, indices = _read_test_split(directory, manifest)
    import_tensorflow(run.logs / "tensorflow.log")
    model = load_model(run.origin.model_file, manifest.shape, manifest.classes)
    forward = Forward(model)
    chosen = chosen_for(run, forward, directory, manifest, config.batch_size)
    with Progress("evaluate", len(images), "images") as progress:
        probabilities = forward(images, config.batch_size, progress.update)
    predictions = Predictions(images=images, labels=labels, indices=indices, probabilities=probabilities)
    test = summarize(probabilities, labels, manifest)
    about = caveats(manifest, test, trained.validation, predictions)
    metrics = _metrics(run, manifest, trained, test, calibration(probabilities, labels, chosen), about)
    write_json(run.metrics_file, metrics.model_dump(mode="json"))
    write_predictions(run.predictions_file, predictions, manifest, Places(directory, manifest))
    layer = layer_pictures(model, predictions, shown_names(test))
    write_report(run, metrics, manifest, predictions, directory, layer)
    if config.compare:
        write_comparison(run, config, manifest, predictions)
    show(metrics.test, metrics.caveats)
    return metrics


def _check_model_file(path: Path, expected: str) -> None:
    try:
        actual = sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: train the run again") from error
    if actual != expected:
        raise InputError(
            f"{path}: found SHA-256 {actual[:12]}…, expected {expected[:12]}… as training wrote it; fix: restore that "
            "file, or remove this one and train again"
        )


def _read_test_split(directory: Path, manifest: Manifest) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the test split as `read_split` does, after checking that each image occurs exactly once."""
    _require_memory(directory, manifest)
    verify(directory, manifest, "test")
    images, labels, indices = read_split(directory, manifest, "test")
    problem = _contradiction(labels, indices, manifest)
    if problem:
        raise InputError(f"{directory / 'test'}: {problem}; fix: remove {directory} and prepare it again")
    return images, labels, indices


def _require_memory(directory: Path, manifest: Manifest) -> None:
    """Raise InputError if the test images do not fit into memory: the kernel would kill this process."""
    test, values = manifest.splits["test"], manifest.values_per_image
    arrays = test.rows * (4 * values + 4 + 8 + 4 * manifest.classes)  # images, labels, indices, probabilities
    reading = 2 * 4 * values * max((shard.rows for shard in test.shards), default=0)  # one shard, twice in Arrow
    needed, free = arrays + reading, free_memory()
    if needed > free:
        raise InputError(
            f"{directory / 'test'}: found {free / 1e9:.2f} GB of free memory, expected {needed / 1e9:.2f} GB for "
            f"{test.rows:,} test images; fix: end other processes, or evaluate on a machine with more memory"
        )


def _contradiction(labels: NDArray[Any], indices: NDArray[Any], manifest: Manifest) -> str | None:
    rows = manifest.splits["test"].rows
    if not rows:
        return "found no test images, expected at least one"
    distinct, times = np.unique(indices, return_counts=True)
    if len(distinct) < rows:
        twice = distinct[times > 1]
        return f"found index {twice[0]} more than once ({rows - len(distinct)} too many in all), expected each once"
    if labels.min() < 0 or labels.max() >= len(manifest.labels):
        return f"found labels from {labels.min()} to {labels.max()}, expected 0 to {len(manifest.labels) - 1}"
    counts = np.bincount(labels, minlength=len(manifest.labels)).tolist()
    if counts != list(manifest.splits["test"].label_counts):
        return f"found label counts {counts}, expected {list(manifest.splits['test'].label_counts)}"
    return None


def _metrics(
    run: RunDir,
    manifest: Manifest,
    trained: TrainOutputs,
    test: TestMetrics,
    calibrated: CalibrationMetrics,
    about: tuple[Caveat, ...],
) -> Metrics:
    """Return all of metrics.json, from the test figures, the config and the records of earlier stages."""
    config = run.read_config()
    seconds = {stage: read_record(run.origin if stage == "train" else run, stage).seconds for stage in STAGES[:-1]}
    seconds[STAGES[-1]] = round(seconds_since_start(), 3)
    return Metrics(
        run_id=run.origin.run_id,
        recipe=config["recipe"],
        seed=config["seed"],
        world_size=trained.world_size,
        dataset_id=manifest.dataset_id,
        data=None if run.origin == run else _test_data(config, manifest),
        test=test,
        calibration=calibrated,
        caveats=(*about, *trained.caveats),
        validation=trained.validation,
        train=TrainMetrics.model_validate(trained.model_dump()),
        seconds=StageSeconds(**seconds, total=round(sum(seconds.values()), 3)),
        versions=trained.versions,
    )


def _test_data(config: Mapping[str, Any], manifest: Manifest) -> TestData:
    return TestData(
        folder=config["fetch"].get("data", ""),
        images=manifest.sources["test_images"],
        labels=manifest.sources["test_labels"],
    )
