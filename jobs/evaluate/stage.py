"""The evaluate stage: a run's model on its dataset's test split, each image once; the figures and the report.

Images pass through the model in batches, so any number of them fits into memory. Several ranks may share the batches:
see `jobs.evaluate.parts`. The result has the same bits at any number of ranks.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.batches import read_labels, read_rows
from jobs.dataset import Manifest, verify
from jobs.errors import InputError
from jobs.evaluate.calibration import Chosen, calibration
from jobs.evaluate.caveats import caveats
from jobs.evaluate.compare import SAMPLE_IMAGES, Sample, write_comparison
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.layers import layer_pictures
from jobs.evaluate.metrics import shown_names, summarize
from jobs.evaluate.parts import ONE_RANK, World
from jobs.evaluate.predictions import has_probabilities, write_predictions
from jobs.evaluate.report import write_report
from jobs.evaluate.results import Predictions, collect
from jobs.evaluate.share import Task, compute, task_of
from jobs.evaluate.table import show
from jobs.evaluate.validation import chosen_for
from jobs.files import write_json
from jobs.metrics import CalibrationMetrics, Caveat, Metrics, StageSeconds, TestData, TestMetrics, TrainMetrics
from jobs.places import Places
from jobs.records import TrainOutputs
from jobs.run_dir import RunDir
from jobs.stage import STAGES, read_outputs, read_record, seconds_since_start


def evaluate(run: RunDir, config: EvaluateConfig, world: World = ONE_RANK) -> Metrics | None:
    """Evaluate a run, write metrics.json and report.html, show the result on stderr, and return the metrics.

    A rank other than 0 computes its share of the probabilities, and returns None. Raises InputError unless the model,
    the dataset and the records of earlier stages fit together.
    """
    trained = read_outputs(run.origin, TrainOutputs)
    task = task_of(run, trained, config.batch_size, world.size)
    if world.rank >= task.ranks:
        return None
    if world.rank:
        compute(task, world)
        return None
    labels, indices = _read_test_labels(task)
    with task.cleaned():
        model = compute(task, world)
        task.wait()
        chosen = chosen_for(run, task.directory, task.manifest, task.validation)
        predictions = collect(labels, indices, task.test.blocks(), chosen.temperature)
        return _write_results(run, config, task, trained, model, predictions, chosen)


def _write_results(
    run: RunDir,
    config: EvaluateConfig,
    task: Task,
    trained: TrainOutputs,
    model: Any,
    predictions: Predictions,
    chosen: Chosen,
) -> Metrics:
    directory, manifest = task.directory, task.manifest
    test = summarize(predictions, manifest)
    about = caveats(manifest, test, trained.validation, predictions)
    calibrated = calibration(predictions.confidence, predictions.tempered, predictions.correct, chosen)
    metrics = _metrics(run, manifest, trained, test, calibrated, about)
    write_json(run.metrics_file, metrics.model_dump(mode="json"))
    probabilities = task.test.all() if has_probabilities(test.count, manifest.classes) else None
    write_predictions(run.predictions_file, predictions, manifest, Places(directory, manifest), probabilities)
    images_of = partial(read_rows, directory, manifest, "test")
    layer = layer_pictures(model, predictions, images_of, shown_names(test))
    write_report(run, metrics, manifest, predictions, images_of, directory, layer)
    if config.compare:
        first = range(min(SAMPLE_IMAGES, test.count))
        sample = Sample(images_of(first), task.test.first(len(first)))
        write_comparison(run, config, manifest, predictions, sample)
    show(metrics.test, metrics.caveats)
    return metrics


def _read_test_labels(task: Task) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels and indices as `read_labels` does, after checking that each image occurs exactly once."""
    directory, manifest = task.directory, task.manifest
    verify(directory, manifest, "test")
    labels, indices = read_labels(directory, manifest, "test")
    problem = _contradiction(labels, indices, manifest)
    if problem:
        raise InputError(f"{directory / 'test'}: {problem}; fix: remove {directory} and prepare it again")
    return labels, indices


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
