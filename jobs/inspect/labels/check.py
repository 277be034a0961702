"""Check a run's labels: out-of-fold predictions, the verdict on each row, the files that show it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Manifest, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.inspect.labels.confident import Verdict, judge
from jobs.inspect.labels.folds import Data, predict_out_of_fold
from jobs.inspect.labels.suspects import Row, write_suspects
from jobs.logs import log
from jobs.memory import free_memory
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.train.config import TrainConfig
from jobs.words import counted

_COPIES = 3  # of the images in memory: all rows, a fold's training rows, one read in progress
_PER_PROBABILITY = 24  # bytes: float32 of all folds, and the copies, float64, that `judge` makes
_PER_PAIR = 24  # bytes for each pair of classes: counts, joint and rounded joint


def check_labels(run: RunDir, folds: int) -> Path:
    """Write suspects.csv, ranking.csv and labels.html into RUN/labels; return that folder.

    Resumes: a fold that is done is not trained again. Raises InputError if the rows do not fit into memory, or are too
    few for the folds.
    """
    directory = dataset_of(run)
    manifest = read_manifest(directory)
    verify(directory, manifest, *SPLITS)
    _require_fit(directory, manifest, folds)
    images, labels, indices, splits = _read(directory, manifest)
    folder = run.path / "labels"
    folder.mkdir(exist_ok=True)
    is_test = splits == SPLITS.index("test")
    usable_test = is_test & (labels < manifest.classes)  # no network knows a class that only the test split has
    data = Data(manifest=manifest, train=images[~is_test], train_labels=labels[~is_test], test=images[usable_test])
    config = run.section("train", TrainConfig)
    predicted = predict_out_of_fold(config, int(run.read_config()["seed"]), folds, data, folder)
    rows: list[Row] = []
    for which, probabilities in ((~is_test, predicted.train), (usable_test, predicted.test)):
        numbers = np.flatnonzero(which)
        if len(numbers):
            verdict = judge(probabilities, labels[which])
            rows += _rows(verdict, numbers, labels, indices, splits)
    write_suspects(folder, directory, manifest, rows, images)
    for role, of_role in (("training", ~is_test), ("test", usable_test)):
        suspects = sum(row.is_suspect and bool(of_role[row.number]) for row in rows)
        among = counted(int(of_role.sum()), f"{role} image")
        log.info("labels: %s among %s", counted(suspects, "suspect"), among)
    return folder


def _require_fit(directory: Path, manifest: Manifest, folds: int) -> None:
    rows = sum(split.rows for split in manifest.splits.values())
    classes, free = manifest.classes, free_memory()
    needed = _COPIES * 4 * manifest.values_per_image * rows + _PER_PROBABILITY * rows * classes + _PER_PAIR * classes**2
    if needed > free:
        raise InputError(
            f"{directory}: found {free / 1e9:.2f} GB of free memory, expected {needed / 1e9:.2f} GB for {rows:,} "
            f"images of {counted(classes, 'class')}; fix: end other processes, or check the labels of fewer images"
        )
    training = rows - manifest.splits["test"].rows
    if training < folds:
        raise InputError(
            f"--folds: found {folds} for {counted(training, 'training image', 'd')}, expected fewer; fix: lower it"
        )


def _read(directory: Path, manifest: Manifest) -> tuple[NDArray[Any], ...]:
    """Return images float32 [n, values], labels, indices and the number of the split of all rows."""
    parts = [read_split(directory, manifest, split) for split in SPLITS]
    images = np.concatenate([each.reshape(len(each), -1) for each, _, _ in parts])
    labels, indices = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    return images, labels, indices, np.repeat(np.arange(len(SPLITS)), [len(part[1]) for part in parts])


def _rows(
    verdict: Verdict, numbers: NDArray[Any], labels: NDArray[Any], indices: NDArray[Any], splits: NDArray[Any]
) -> list[Row]:
    return [
        Row(
            number=int(numbers[each]),
            split=SPLITS[int(splits[numbers[each]])],
            index=int(indices[numbers[each]]),
            given=int(labels[numbers[each]]),
            suggested=int(verdict.suggested[each]),
            margin=float(verdict.margin[each]),
            is_suspect=bool(verdict.suspect[each]),
        )
        for each in verdict.ranked().tolist()
    ]
