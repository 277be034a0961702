"""Out-of-fold predictions: every row is predicted by networks that were not trained on it.

The rows of the training archive (training and validation split) are cut into k folds. Network i trains on all folds
but i. It predicts the rows of fold i, and all test rows: no network sees those, so they get the mean of all k.
A finished fold is kept in FOLDER/fold-I.npz, and a later call continues with the next one.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.files import sha256_json, write_atomic
from jobs.logs import log
from jobs.progress import Progress
from jobs.train.config import TrainConfig
from jobs.train.data.length import images_seen, row_order, total_steps


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows in memory. `train`, `test`: float32 [n, values] in [0, 1]; labels: int [n], class numbers."""

    manifest: Manifest
    train: NDArray[Any]
    train_labels: NDArray[Any]
    test: NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """Probabilities, float32 [n, classes], of each training row (out of fold) and of each test row."""

    train: NDArray[Any]
    test: NDArray[Any]


def fold_of(labels: NDArray[Any], folds: int, seed: int) -> NDArray[Any]:
    """Return the fold of each row, int64 [n]: random, with every class spread evenly (± 1) over the folds."""
    order = np.lexsort((np.random.default_rng([0xF01D, seed]).random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def predict_out_of_fold(config: TrainConfig, seed: int, folds: int, data: Data, folder: Path) -> Predictions:
    """Train a network per fold, unless FOLDER has its predictions, and return all predictions."""
    fold = fold_of(data.train_labels, folds, seed)
    train = np.empty((len(data.train), data.manifest.classes), np.float32)
    test: list[NDArray[Any]] = []
    for number in range(folds):
        held_out = np.flatnonzero(fold == number)
        identity = [data.manifest.dataset_id, config.model_dump(mode="json"), seed, folds, number]
        path, key = folder / f"fold-{number}.npz", sha256_json([*identity, sha256_json(data.train_labels.tolist())])
        result = _read(path, key)
        if result is None:
            result = _train(config, seed + number, data, fold, number, folds)
            _write(path, key, result)
        train[held_out] = result.train
        test.append(result.test)
    return Predictions(train, np.mean(test, axis=0, dtype=np.float64).astype(np.float32))


def _train(config: TrainConfig, seed: int, data: Data, fold: NDArray[Any], number: int, folds: int) -> Predictions:
    from jobs.inspect.labels.fit import fit, probabilities

    kept = fold != number
    order = row_order(config, [int(kept.sum())], seed)
    images = images_seen(order, total_steps(config, order))
    with Progress(f"labels: fold {number + 1} of {folds}", images, "images") as progress:
        done = 0

        def on_images(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        model = fit(config, data.manifest, seed, data.train[kept], data.train_labels[kept], on_images)
    result = Predictions(probabilities(model, data.train[~kept]), probabilities(model, data.test))
    correct = float((result.train.argmax(axis=1) == data.train_labels[~kept]).mean())
    log.info("labels: fold %d of %d: %.2f %% of its held-out labels predicted", number + 1, folds, 100 * correct)
    return result


def _read(path: Path, key: str) -> Predictions | None:
    """Return a fold's predictions, or None if they are missing, damaged, or of another training."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Predictions(arrays["train"], arrays["test"]) if str(arrays["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _write(path: Path, key: str, result: Predictions) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, key=np.array(key), train=result.train, test=result.test)

    write_atomic(path, write)
