"""One rank of a training, from the run directory to the trained model."""

import hashlib
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

import models
from jobs.dataset import Manifest, read_manifest
from jobs.errors import IdxtrainError
from jobs.files import sha256_file, write_atomic
from jobs.run_dir import RunDir
from jobs.stage import read_record, stage_key, write_record
from jobs.train import checkpoint, devices
from jobs.train.collective import Collective
from jobs.train.config import TrainConfig
from jobs.train.console import Audit, Console, Meter
from jobs.train.feed import Call, ShardStore, read_epoch, spans
from jobs.train.length import images_seen, total_steps
from jobs.train.order import RowOrder, share
from jobs.train.step import TrainStep, make_evaluator
from models.training.augment import Augmentation
from models.training.export import portable
from models.training.optimizers import OPTIMIZERS, Hyperparameters
from models.training.schedules import rates

log = logging.getLogger("idxtrain")

_VALIDATION_ROWS = 500  # a forward pass's batch


def train(run: RunDir) -> None:
    """Be one rank: train, validate, and on rank 0 write checkpoints, curves, the model and the stage's record."""
    Training(run, run.section("train", TrainConfig)).run()


class Training:
    """The state of one rank."""

    def __init__(self, run: RunDir, config: TrainConfig) -> None:
        self.run_dir, self.config = run, config
        self.key = stage_key(run, "train")
        self.seed = int(run.read_config()["seed"])
        self.dataset = Path(read_record(run, "prepare").outputs["dataset"])
        self.manifest = read_manifest(self.dataset)

        self.collective = Collective()
        self.rank, self.world_size = self.collective.rank, self.collective.world_size
        device = devices.configure(tf, self.collective.local_rank, self.collective.local_size)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        if self.rank == 0:
            log.info("train: %d rank%s, each on %s", self.world_size, "s" if self.world_size > 1 else "", device)

        keras.utils.set_random_seed(self.seed)
        if config.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        pixels = self.manifest.pixels
        standardize = (pixels.mean, pixels.std or 1.0) if config.standardize else None
        self.model = models.build(config.model, self.manifest.shape, self.manifest.classes, config.dropout, standardize)
        self.variables = [variable.value for variable in self.model.trainable_variables]
        hyperparameters = Hyperparameters(
            config.momentum, config.rho, config.beta1, config.beta2, config.epsilon, config.weight_decay
        )
        self.optimizer = OPTIMIZERS[config.optimizer](self.variables, hyperparameters)

        keep = keep_in_memory(config, self.manifest, self.collective.local_size)
        self.store = ShardStore(self.dataset, self.manifest, "train", config.reader_threads, keep)
        self.held_out = ShardStore(self.dataset, self.manifest, "validation", config.reader_threads, keep)
        self.order = RowOrder(self.store.shard_rows, config.batch_size, self.seed, config.shuffle_shards)
        self.total_steps = total_steps(config, self.order)
        self.rates = rates(config.schedule, self.total_steps, config.peak_rate, config.warmup, config.final)
        augmentation = Augmentation(config.shift, config.rotate, config.zoom)
        self.train_step = TrainStep(self.model, self.optimizer, self.collective, augmentation, self.seed)
        self.evaluate = make_evaluator(self.model)
        self.meter = Meter()
        self.audit = Audit(run.logs / f"rows.rank-{self.rank}.jsonl") if config.audit else None

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end."""
        step = self._restore()
        validation: dict[str, Any] = {}
        with self._console(step) as console:
            while step < self.total_steps:
                epoch = step // self.order.steps
                for call in self._calls(epoch, step):
                    losses, accuracy = self._train(call)
                    step = call.first_step + call.steps
                    if console:
                        console.trained(step, epoch, losses, accuracy, self.meter.rate)
                validation = self._validate()
                if console:
                    console.validated(step, validation)
                    checkpoint.save(self.run_dir.checkpoints, self._state(step), self.config.keep_checkpoints)
        self._finish(step, validation or self._validate())

    def _console(self, step: int) -> AbstractContextManager[Console | None]:
        return Console(self.run_dir, self.model, self.rates, step) if self.rank == 0 else nullcontext()

    def _train(self, call: Call) -> tuple[np.ndarray, float]:
        """Run one call of the graph; return the loss of each of its steps, and the accuracy on the last batch."""
        begin = time.monotonic()
        losses, right = self.train_step(call, self.rates[call.first_step : call.first_step + call.steps])
        self.meter.add(call.steps * call.global_rows, time.monotonic() - begin)
        if self.audit:
            self.audit.trained(call)
        if not np.isfinite(losses).all():
            raise IdxtrainError(
                f"step {call.first_step + int(np.argmin(np.isfinite(losses)))}: the loss is not finite; "
                "lower train.learning_rate or lengthen train.warmup"
            )
        return losses, right / call.global_rows

    def _calls(self, epoch: int, step: int) -> Iterator[Call]:
        planned = spans(self.order, epoch, step, self.total_steps, self.config.log_every)
        return read_epoch(self.store, self.order, epoch, planned, self.rank, self.world_size)

    def _restore(self) -> int:
        """Load the last checkpoint on rank 0, give it to all ranks; return the step to go on from."""
        found = checkpoint.latest(self.run_dir.checkpoints, self.key) if self.rank == 0 else None
        if found:
            for name, variable in self._named():
                variable.assign(found.arrays[name])
            log.info("train: going on from step %d of %d", found.position.step, self.total_steps)
        step = int(self.collective.gather(np.array([found.position.step if found else 0]))[0])
        self.collective.broadcast([variable for _, variable in self._named()])
        return step

    def _named(self) -> list[tuple[str, Any]]:
        """All that a checkpoint holds: weights (also those not trained by gradient) and slots, by name."""
        weights = [(f"weight.{n}", variable.value) for n, variable in enumerate(self.model.variables)]
        slots = [
            (f"{name}.{n}", variable)
            for name, variables in self.optimizer.slots.items()
            for n, variable in enumerate(variables)
        ]
        return weights + slots

    def _state(self, step: int) -> checkpoint.Checkpoint:
        arrays = {name: variable.numpy() for name, variable in self._named()}
        return checkpoint.Checkpoint(checkpoint.Position(step, self.key), arrays)

    def _validate(self) -> dict[str, Any]:
        """Evaluate on the whole validation split, each rank on its share; the sums are exact."""
        count = self.manifest.splits["validation"].rows
        if not count:
            return {"accuracy": None, "errors": None, "loss": None, "count": 0}
        mine = np.arange(*share(count, self.rank, self.world_size))
        right, loss = 0, 0.0
        for rows in self.held_out.read([mine[i : i + _VALIDATION_ROWS] for i in range(0, len(mine), _VALIDATION_ROWS)]):
            batch_right, batch_loss = self.evaluate(rows.images, rows.labels)
            right, loss = right + batch_right, loss + batch_loss
        sums = self.collective.gather(np.array([[right, loss]], np.float64)).sum(axis=0)
        errors = count - int(sums[0])
        return {"accuracy": 1 - errors / count, "errors": errors, "loss": float(sums[1]) / count, "count": count}

    def _finish(self, step: int, validation: dict[str, Any]) -> None:
        """Compare the ranks' weights, then write the model and the record."""
        digests = self._weight_digests()
        if len(set(digests)) > 1:
            raise IdxtrainError(f"the ranks' weights differ at the end: {digests}; this must not be, please report it")
        if self.rank == 0:
            model = portable(self.model)
            write_atomic(self.run_dir.model_file, model.save)
            outputs = {
                "model_sha256": sha256_file(self.run_dir.model_file),
                "world_size": self.world_size,
                "steps": step,
                "images": images_seen(self.order, step),
                "images_per_second": self.meter.rate,
                "validation": validation,
                "weights_sha256": digests,
                "versions": versions(),
            }
            write_record(self.run_dir, "train", self.key, outputs, [self.run_dir.model_file])
        self.collective.barrier()

    def _weight_digests(self) -> list[str]:
        """Return the SHA-256 of every rank's weights and slots."""
        digest = hashlib.sha256()
        for _, variable in self._named():
            digest.update(variable.numpy().tobytes())
        gathered = self.collective.gather(np.frombuffer(digest.digest(), np.uint8))
        return [row.tobytes().hex() for row in gathered.reshape(self.world_size, -1)]


def keep_in_memory(config: TrainConfig, manifest: Manifest, local_size: int) -> bool:
    """Tell whether every rank of a node may hold all rows it comes across."""
    if config.cache != "auto":
        return config.cache == "always"
    rows = manifest.splits["train"].rows + manifest.splits["validation"].rows
    wanted = rows * manifest.values_per_image * 4 * local_size
    return wanted < config.cache_share * psutil.virtual_memory().available


def versions() -> dict[str, str]:
    """Return the versions that a trained model's numbers may depend on."""
    packages = ("tensorflow", "keras", "horovod", "petastorm", "numpy", "pyarrow", "pyspark")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
