"""A rank's share of an evaluation: check the files it reads, then compute the probabilities of its batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.batches import shards_between
from jobs.dataset import Manifest, Split, read_manifest, verify_shards
from jobs.errors import InputError
from jobs.evaluate.parts import Parts, World, even_batches
from jobs.evaluate.predict import Forward, load_model, shown
from jobs.evaluate.results import MERGE_BYTES
from jobs.evaluate.validation import validation_batches
from jobs.files import sha256_file, sha256_json
from jobs.logs import log
from jobs.memory import free_memory
from jobs.progress import Progress
from jobs.records import TrainOutputs
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.tensorflow_import import import_tensorflow
from jobs.words import counted


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the ranks of an evaluation share. `validation`: without batches for an evaluation on other data."""

    run: RunDir
    directory: Path
    manifest: Manifest
    validation: Parts
    test: Parts

    @property
    def ranks(self) -> int:
        """How many ranks have batches; at least 1, as rank 0 writes the result."""
        return max(1, self.validation.ranks, self.test.ranks)

    def wait(self) -> None:
        """Wait until every rank has computed its share."""
        for parts in (self.validation, self.test):
            parts.wait()

    @contextmanager
    def cleaned(self) -> Iterator[None]:
        """Remove the ranks' files when the body ends. A killed process leaves them, to be used again."""
        try:
            yield
        finally:
            for parts in (self.validation, self.test):
                parts.remove()


def task_of(run: RunDir, trained: TrainOutputs, batch_size: int, size: int) -> Task:
    """Return what `size` ranks evaluate: the same at any rank.

    Raises InputError if the model's file has changed, or if there is too little memory.
    """
    directory = dataset_of(run)
    manifest = read_manifest(directory)
    _require_memory(directory, manifest, batch_size)
    _check_model_file(run.origin.model_file, trained.model_sha256)
    shards = [shard.sha256 for split in ("validation", "test") for shard in manifest.splits[split].shards]
    key = sha256_json({"model": trained.model_sha256, "shards": shards, "batch_size": batch_size})[:16]

    def parts(split: Split, batches: list[range]) -> Parts:
        return Parts(folder=run.path, key=key, split=split, batches=batches, classes=manifest.classes, size=size)

    return Task(
        run=run,
        directory=directory,
        manifest=manifest,
        validation=parts("validation", validation_batches(run, manifest, batch_size)),
        test=parts("test", even_batches(range(manifest.splits["test"].rows), batch_size)),
    )


def _require_memory(directory: Path, manifest: Manifest, batch_size: int) -> None:
    """Raise InputError if the figures of the test images do not fit into memory: the kernel would kill this process."""
    rows, held_out = manifest.splits["test"].rows, manifest.splits["validation"].rows
    batch = 3 * 4 * manifest.values_per_image * min(batch_size, rows)  # itself, the rest of another, TensorFlow's
    needed, free = MERGE_BYTES * rows + 4 * manifest.classes * held_out + batch, free_memory()
    if needed > free:
        raise InputError(
            f"{directory / 'test'}: found {free / 1e9:.2f} GB of free memory, expected {needed / 1e9:.2f} GB for "
            f"{rows:,} test images; fix: end other processes, or evaluate on a machine with more memory"
        )


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


def compute(task: Task, world: World) -> Any:
    """Compute the probabilities of a rank's batches, after a check of the shards they are in; return the keras.Model.

    Rank 0 has checked the whole test split before. Raises InputError if a shard is damaged, or if the model is not one
    for this dataset.
    """
    for parts in (task.validation, task.test) if world.rank else (task.validation,):
        held = shards_between(task.manifest, parts.split, parts.rows_of(world.rank))
        verify_shards(task.directory, [shard for _, shard in held])
    import_tensorflow(task.run.logs / "tensorflow.log")
    _use_own_gpu(world)
    model = load_model(task.run.origin.model_file, task.manifest.shape, task.manifest.classes)
    forward = Forward(model)
    if not world.rank and task.ranks > 1:
        log.info("evaluate: %s share %s images", counted(task.ranks, "rank"), f"{task.test.batches[-1].stop:,}")
    for what, parts in (("calibrate", task.validation), ("evaluate", task.test)):
        rows, batches = parts.rows_of(world.rank), parts.batches_of(world.rank)
        if not batches or parts.is_written(world.rank):
            continue
        blocks = forward.stream(task.directory, task.manifest, parts.split, batches)
        if world.rank:
            parts.write(world.rank, blocks)
            continue
        with Progress(what, len(rows), "images") as progress:
            parts.write(world.rank, shown(blocks, progress))
    return model


def _use_own_gpu(world: World) -> None:
    """Limit TensorFlow to this rank's GPU, if a launcher shows all ranks of this machine all of them.

    The number of CPU threads stays that of a single rank: how a kernel divides a sum among threads may decide its
    rounding. One process uses all CPUs of a machine, so more ranks on it would gain nothing with fewer threads each.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1 and world.local_size > 1:
        tf.config.set_visible_devices(gpus[world.local_rank % len(gpus)], "GPU")
