"""Checks before any rank starts: an error here is one line and costs no allocation."""

import models
from jobs import dataset
from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.train.config import TrainConfig


def check_config(config: TrainConfig, ranks: int) -> None:
    """Raise InputError if no data could be trained on: unknown model, or too small a batch for the ranks."""
    if config.model not in models.names():
        raise InputError(f"train.model: found {config.model!r}, expected one of {', '.join(models.names())}")
    if config.batch_size < ranks:
        raise InputError(
            f"train.batch_size: found {config.batch_size}, the global batch, for {ranks} ranks, expected at least one "
            "row per rank; fix: raise it or lower --np"
        )
    if config.deterministic and config.slices < ranks:
        raise InputError(
            f"train.slices: found {config.slices} for {ranks} ranks, expected at least one slice per rank with "
            "train.deterministic=true; fix: raise it or lower --np"
        )


def check_dataset(run: RunDir) -> None:
    """Raise InputError if a run's dataset is not as prepare wrote it."""
    directory = dataset_of(run)
    manifest = dataset.read_manifest(directory)
    dataset.verify(directory, manifest, "train", "validation")
