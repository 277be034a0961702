"""Checks before any rank starts: an error here is one line and costs no allocation."""

import models
from jobs import dataset
from jobs.dataset_store import read_record, require_shards
from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.train.class_weights import class_weights
from jobs.train.config import TrainConfig
from jobs.train.data.length import batch_size


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


def check_rows(config: TrainConfig, train_rows: int, validation_rows: int, ranks: int) -> None:
    """Raise InputError if these rows do not suffice: a batch for each rank, validation where an option needs it."""
    batch = batch_size(config, train_rows)
    if batch < ranks:
        raise InputError(
            f"train.min_steps_per_epoch: found a global batch of {batch} for {train_rows:,} training rows and {ranks} "
            f"ranks, expected at least one row per rank; fix: lower --np to {batch} or less, or set train.batch_size="
            f"{ranks} or more, which is then kept"
        )
    needing = {"train.early_stopping": config.early_stopping is not None, "train.keep=best": config.keep == "best"}
    for option in (option for option, is_set in needing.items() if is_set and not validation_rows):
        raise InputError(
            f"{option}: found no validation rows, expected some to choose an epoch by; "
            "fix: raise prepare.validation_rows or leave the option out"
        )


def check_dataset(run: RunDir, config: TrainConfig, ranks: int) -> None:
    """Raise InputError if a run's dataset is not as prepare wrote it, or does not fit the config."""
    directory = dataset_of(run)
    manifest = dataset.read_manifest(directory)
    check_rows(config, manifest.splits["train"].rows, manifest.splits["validation"].rows, ranks)
    class_weights(config, manifest)
    record = read_record(directory)
    if record is None:
        dataset.verify(directory, manifest, "train", "validation")
    else:  # their bytes are checked by the ranks, each of which copies what it reads
        shards = [shard for split in ("train", "validation") for shard in manifest.splits[split].shards]
        require_shards(record, directory, shards)
