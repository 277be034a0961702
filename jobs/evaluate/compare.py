"""The challenger's file, and former champions on the same images: what the gate of a retraining judges by.

Writes `comparison.json` and `sample.npz` (a few test images and the probabilities evaluation saw) into the run.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.evaluate.comparison import Paired
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.metrics import summarize
from jobs.evaluate.predict import Predictions, load_model, predict
from jobs.files import sha256_file, write_atomic, write_json
from jobs.run_dir import RunDir

_SAMPLE = 64  # images
_TIMED = 20  # passes of one image


def write_comparison(run: RunDir, config: EvaluateConfig, manifest: Manifest, predictions: Predictions) -> None:
    """Load the model again and compare it with what evaluation saw; evaluate the champion and the best champion so far,
    where there are such.
    """
    comparison: dict[str, Any] = {
        "model": _examine(run.model_file, manifest, predictions),
        "champion": None,
        "paired": None,
        "best": None,
        "paired_best": None,
        "incomparable": "",
    }
    others = (
        ("the champion", "champion", "paired", config.champion, config.champion_sha256),
        ("the best champion so far", "best", "paired_best", config.best, config.best_sha256),
    )
    for who, test_key, paired_key, path, digest in others:
        if not path:
            continue
        try:
            test, paired = _against(Path(path), digest, config.batch_size, manifest, predictions)
            comparison |= {test_key: test, paired_key: paired.to_json()}
        except InputError as error:
            comparison["incomparable"] = f"{who} cannot be compared: {error}"
            break
    sample = {"images": predictions.images[:_SAMPLE], "probabilities": predictions.probabilities[:_SAMPLE]}
    write_atomic(run.sample_file, lambda temporary: np.savez(temporary, **sample))
    write_json(run.comparison_file, comparison)


def _examine(path: Path, manifest: Manifest, predictions: Predictions) -> dict[str, Any]:
    """Return size, latency of one image in ms (median), and the largest difference of any probability."""
    facts: dict[str, Any] = {"bytes": path.stat().st_size, "latency_ms": None, "difference": None, "fault": ""}
    try:
        model = load_model(path, manifest.shape, manifest.classes)
        again = predict(model, predictions.images[:_SAMPLE], _SAMPLE)
    except InputError as error:
        return facts | {"fault": str(error)}
    difference = float(np.abs(again - predictions.probabilities[:_SAMPLE]).max())
    return facts | {"latency_ms": _latency(model, predictions.images[:1]), "difference": difference}


def _latency(model: Any, image: NDArray[Any]) -> float:
    import tensorflow as tf

    forward = tf.function(lambda batch: model(batch, training=False))
    forward(image).numpy()  # builds the graph
    seconds = []
    for _ in range(_TIMED):
        begin = time.perf_counter()
        forward(image).numpy()
        seconds.append(time.perf_counter() - begin)
    return round(1000 * float(np.median(seconds)), 3)


def _against(
    path: Path, digest: str, batch_size: int, manifest: Manifest, predictions: Predictions
) -> tuple[dict[str, Any], Paired]:
    """Return a champion's `test` object, as metrics.json has it, and the table of who got which image right.

    Raises InputError where its file is not that of the SHA-256 `digest`, or takes other images.
    """
    try:
        found = sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); promote another version") from error
    if found != digest:
        raise InputError(f"{path}: found SHA-256 {found[:12]}…, expected {digest[:12]}…")
    champion = predict(load_model(path, manifest.shape, manifest.classes), predictions.images, batch_size)
    return summarize(champion, predictions.labels), pair_up(
        champion.argmax(axis=1) == predictions.labels,
        predictions.probabilities.argmax(axis=1) == predictions.labels,
    )


def pair_up(champion: NDArray[Any], challenger: NDArray[Any]) -> Paired:
    """Count images by who got them right: bool [rows] each."""
    return Paired(
        int((champion & challenger).sum()),
        int((champion & ~challenger).sum()),
        int((~champion & challenger).sum()),
        int((~champion & ~challenger).sum()),
    )
