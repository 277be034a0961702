"""Compare the challenger with former champions on the same images: the evidence for the gate of a retraining.

Writes `comparison.json` and `sample.npz` (a few test images and their probabilities) into the run.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.evaluate.comparison import Paired
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.drift import feature_drift
from jobs.evaluate.metrics import summarize
from jobs.evaluate.parts import even_batches
from jobs.evaluate.predict import Forward, load_model, predict, shown
from jobs.evaluate.results import Predictions, collect
from jobs.files import sha256_file, write_atomic, write_json
from jobs.progress import Progress
from jobs.run_dir import RunDir
from jobs.stage import dataset_of

SAMPLE_IMAGES = 64  # the first ones of the test split
_TIMED_PASSES = 20  # of one image each


@dataclass(frozen=True)
class Sample:
    """The first 64 test images, float32 [n, height, width, channels], and their probabilities, float32 [n, classes]."""

    images: NDArray[Any]
    probabilities: NDArray[Any]


def write_comparison(
    run: RunDir, config: EvaluateConfig, manifest: Manifest, predictions: Predictions, sample: Sample
) -> None:
    """Load the model again and compare it with `predictions`; evaluate the champion and the best former champion."""
    comparison: dict[str, Any] = {
        "model": _examine(run.model_file, manifest, sample),
        "champion": None,
        "paired": None,
        "best": None,
        "paired_best": None,
        "incomparable": "",
        "drift": [],
        "drift_unknown": "",
    }
    others = (
        ("the champion", "champion", "paired", config.champion, config.champion_sha256),
        ("the best champion so far", "best", "paired_best", config.best, config.best_sha256),
    )
    for who, test_key, paired_key, path, digest in others:
        if not path:
            continue
        try:
            model = _former(Path(path), digest, manifest)
            test, paired = _against(model, config.batch_size, dataset_of(run), manifest, predictions)
            comparison |= {test_key: test, paired_key: paired.to_json()}
            if test_key == "champion":
                comparison |= _drift(run, config, model, manifest)
        except InputError as error:
            comparison["incomparable"] = f"{who} cannot be compared: {error}"
            break
    arrays = {"images": sample.images, "probabilities": sample.probabilities}
    write_atomic(run.sample_file, lambda temporary: np.savez(temporary, **arrays))
    write_json(run.comparison_file, comparison)


def _examine(path: Path, manifest: Manifest, sample: Sample) -> dict[str, Any]:
    """Return the file's size, the median latency of one image in ms, and the largest difference of a probability."""
    facts: dict[str, Any] = {"bytes": path.stat().st_size, "latency_ms": None, "difference": None, "fault": ""}
    try:
        model = load_model(path, manifest.shape, manifest.classes)
        again = predict(model, sample.images, SAMPLE_IMAGES)
    except InputError as error:
        return facts | {"fault": str(error)}
    difference = float(np.abs(again - sample.probabilities).max())
    return facts | {"latency_ms": _latency(model, sample.images[:1]), "difference": difference}


def _latency(model: Any, image: NDArray[Any]) -> float:
    import tensorflow as tf

    forward = tf.function(lambda batch: model(batch, training=False))
    forward(image).numpy()  # builds the graph
    seconds = []
    for _ in range(_TIMED_PASSES):
        begin = time.perf_counter()
        forward(image).numpy()
        seconds.append(time.perf_counter() - begin)
    return round(1000 * float(np.median(seconds)), 3)


def _former(path: Path, digest: str, manifest: Manifest) -> Any:
    """Return a champion's keras.Model.

    Raises InputError if its file does not have the SHA-256 `digest`, or if the model takes other images.
    """
    try:
        actual = sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: promote another version") from error
    if actual != digest:
        raise InputError(f"{path}: found SHA-256 {actual[:12]}…, expected {digest[:12]}…; fix: promote another version")
    return load_model(path, manifest.shape, manifest.classes)


def _against(
    model: Any, batch_size: int, directory: Path, manifest: Manifest, predictions: Predictions
) -> tuple[dict[str, Any], Paired]:
    """Return a champion's `test` object, as in metrics.json, and the table of correct predictions."""
    rows = len(predictions.labels)
    with Progress("evaluate", rows, "images") as progress:
        batches = even_batches(range(rows), batch_size)
        blocks = shown(Forward(model).stream(directory, manifest, "test", batches), progress)
        champion = collect(predictions.labels, predictions.indices, blocks)
    return summarize(champion, manifest).model_dump(mode="json"), pair_up(champion.correct, predictions.correct)


def _drift(run: RunDir, config: EvaluateConfig, champion: Any, manifest: Manifest) -> dict[str, Any]:
    """Return the drift of the new pairs, or why it is unknown."""
    if not config.champion_dataset:
        return {"drift_unknown": "the dataset that the champion was trained on is not in this work folder"}
    try:
        pairs = feature_drift(champion, Path(config.champion_dataset), dataset_of(run), manifest, config.batch_size)
    except InputError as error:
        return {"drift_unknown": str(error)}
    return {"drift": [asdict(pair) for pair in pairs]}


def pair_up(champion: NDArray[Any], challenger: NDArray[Any]) -> Paired:
    """Count images by which model predicts them correctly: bool [rows] each."""
    return Paired(
        both=int((champion & challenger).sum()),
        only_champion=int((champion & ~challenger).sum()),
        only_challenger=int((~champion & challenger).sum()),
        neither=int((~champion & ~challenger).sum()),
    )
