"""What is checked before any rank starts: a refusal here is one line, and costs no allocation."""

import models
from jobs import dataset
from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.train.config import TrainConfig


def check_config(config: TrainConfig, ranks: int) -> None:
    """Raise InputError where a training cannot work, whatever the data: model, batch."""
    if config.model not in models.names():
        raise InputError(f"train.model: found {config.model!r}, expected one of {', '.join(models.names())}")
    if config.batch_size < ranks:
        raise InputError(
            f"train.batch_size: found {config.batch_size}, the global batch, for {ranks} ranks, expected at least a "
            "row a rank; raise it or lower --np"
        )
    if config.deterministic and config.slices < ranks:
        raise InputError(
            f"train.slices: found {config.slices} for {ranks} ranks, expected at least a slice a rank where "
            "train.deterministic is true; raise it or lower --np"
        )


def check_dataset(run: RunDir) -> None:
    """Raise InputError where a run's dataset is not what prepare wrote."""
    directory = dataset_of(run)
    manifest = dataset.read_manifest(directory)
    dataset.verify(directory, manifest, "train", "validation")
