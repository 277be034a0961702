"""One rank of a training, from the run directory to the trained model."""

import hashlib
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from jobs.dataset import read_manifest
from jobs.errors import IdxtrainError, InputError, PeerLostError, one_line
from jobs.files import sha256_file, write_atomic
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, stage_key, write_record
from jobs.train import checkpoint
from jobs.train.compute import devices, exact, precision
from jobs.train.compute.collective import Collective, tells_of_a_lost_peer
from jobs.train.compute.network import Network
from jobs.train.compute.step import HowTaken, LocalResult, TrainStep, make_evaluator
from jobs.train.config import TrainConfig
from jobs.train.data.feed import Call, ShardStore, most_steps, read_epoch, spans
from jobs.train.data.length import images_seen, total_steps
from jobs.train.data.order import RowOrder
from jobs.train.data.row_cache import keep_in_memory
from jobs.train.stop import StopRequest, stopped
from jobs.train.telemetry.console import Audit, Console, Meter
from jobs.train.telemetry.flight_recorder import Flight, Recorder
from jobs.train.telemetry.heartbeat import Heartbeat
from jobs.train.telemetry.measure import Measurement, exchange
from jobs.train.validation import Validation
from models.training.augment import Augmentation
from models.training.export import portable
from models.training.schedules import Rates

log = logging.getLogger("idxtrain")


def train(run: RunDir, heartbeat: Heartbeat) -> None:
    """Be one rank: train, validate, and on rank 0 write checkpoints, curves, the model and the stage's record.

    Raises PeerLostError where another rank is gone: that one's own words tell why.
    """
    try:
        Training(run, run.section("train", TrainConfig), heartbeat).run()
    except (tf.errors.OpError, RuntimeError) as error:
        if tells_of_a_lost_peer(error):
            raise PeerLostError(f"train: another rank is gone ({one_line(error)[:200]})") from error
        raise


class Training:
    """The state of one rank."""

    def __init__(self, run: RunDir, config: TrainConfig, heartbeat: Heartbeat) -> None:
        self.run_dir, self.config, self.heartbeat = run, config, heartbeat
        self.stop = StopRequest()
        self.key = stage_key(run, "train")
        seed = int(run.read_config()["seed"])
        dataset = dataset_of(run)
        manifest = read_manifest(dataset)

        self.collective = Collective()
        self.rank, self.world_size = self.collective.rank, self.collective.world_size
        device = devices.configure(
            tf, self.collective.local_rank, self.collective.local_size, single_threaded_ops=config.deterministic
        )
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.precision = precision.chosen(tf, config, self.collective)
        if self.rank == 0:
            ranks = f"{self.world_size} rank{'s' if self.world_size > 1 else ''}"
            log.info("train: %s, each on %s, in %s", ranks, device, self.precision)

        keep = keep_in_memory(config, manifest, self.collective.local_size)
        arrived = [partial(heartbeat.progressed, phase) for phase in ("input", "validation")]
        self.store = ShardStore(dataset, manifest, "train", config.reader_threads, keep, arrived[0])
        held_out = ShardStore(dataset, manifest, "validation", config.reader_threads, keep, arrived[1])
        self.validation = Validation(held_out)
        self.order = RowOrder(
            self.store.shard_rows, config.batch_size, seed, config.shuffle_shards, config.fixed_slices
        )
        self.most_steps = most_steps(self.order, manifest.values_per_image, self.world_size)
        self.total_steps = total_steps(config, self.order)
        self.rates = Rates(
            config.schedule, self.total_steps, config.peak_rate, config.warmup_fraction, config.final_rate_fraction
        )

        self.network = Network(config, manifest, seed, self.precision)
        self.train_step = make_step(config, self.network, self.collective, seed)
        self.evaluate = make_evaluator(self.network.final)
        self.taken: list[tuple[LocalResult, Flight]] = []  # the calls since the last measurement
        self.meter = Meter()
        self.recorder = Recorder(run.logs / f"flight.rank-{self.rank}.jsonl")
        self.audit = Audit(run.logs / f"rows.rank-{self.rank}.jsonl") if config.audit else None

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end."""
        step, owes_validation = self._restore()
        validation: dict[str, Any] = {}
        writer = checkpoint.Writer(self.run_dir.checkpoints, self.config.keep_checkpoints)
        due = Due(self.config, step)
        with self._console(step) as console:
            if owes_validation:
                validation = self._end_epoch(step, console, writer)
            while step < self.total_steps:
                epoch = step // self.order.steps
                for call, waited in self._calls(epoch, step):
                    self._train(call, waited)
                    step = call.first_step + call.steps
                    if not call.measured:
                        continue
                    result = self._measure(step, call.global_rows)
                    if console:
                        console.trained(step, epoch, result, self.meter.rate)
                    if result.stop:
                        self._save(writer, step)
                        writer.wait()
                        raise stopped(step, self.total_steps, self.run_dir.run_id)
                    if due.now(step) and step % self.order.steps:  # at the end of an epoch it comes anyway
                        self._save(writer, step)
                validation = self._end_epoch(step, console, writer)
            writer.wait()
        validation = validation or self._validate(step)
        self.heartbeat.tell("finish", step)
        self._finish(step, validation)

    def _end_epoch(self, step: int, console: Console | None, writer: checkpoint.Writer) -> dict[str, Any]:
        """Validate, and keep what is then known of the state; return the validation."""
        validation = self._validate(step)
        if console:
            console.validated(step, validation)
        self._save(writer, step, validation)
        return validation

    def _console(self, step: int) -> AbstractContextManager[Console | None]:
        if self.rank:
            return nullcontext()
        return Console(self.run_dir, self.network.model, self.rates, step)

    def _calls(self, epoch: int, step: int) -> Iterator[tuple[Call, float]]:
        """Yield the calls of an epoch, and how many seconds this rank waited for each."""
        planned = spans(self.order, epoch, step, self.total_steps, self.config.log_every, self.most_steps)
        coming = read_epoch(self.store, self.order, epoch, planned, self.rank, self.world_size)
        while True:
            self.heartbeat.tell("input", step)
            begin = time.monotonic()
            call = next(coming, None)
            if call is None:
                return
            self.heartbeat.tell("step", call.first_step)
            yield call, time.monotonic() - begin
            step = call.first_step + call.steps

    def _train(self, call: Call, waited: float) -> None:
        """Run one call of the graph."""
        begin = time.monotonic()
        local = self.train_step(call, self.rates[call.first_step : call.first_step + call.steps])
        seconds = time.monotonic() - begin
        self.heartbeat.begun()
        flight = Flight(call.first_step + call.steps, len(call.indices), waited, seconds - local.waited, local.waited)
        self.taken.append((local, flight))
        self.recorder.record(flight)
        if self.audit:
            self.audit.trained(call)

    def _measure(self, step: int, global_rows: int) -> Measurement:
        """Exchange with the other ranks what came of the calls up to `step`, on global batches of so many rows."""
        begin = time.monotonic()
        result = exchange(self.collective, self.taken, global_rows, self.stop.requested)
        seconds = sum(flight.compute + flight.allreduce for _, flight in self.taken) + time.monotonic() - begin
        steps = len(result.losses)
        self.meter.add(steps * global_rows, seconds)
        self.taken.clear()
        if not np.isfinite(result.losses).all():
            raise InputError(
                f"train: step {step - steps + int(np.argmin(np.isfinite(result.losses)))}: the loss is not finite; "
                "lower train.learning_rate or lengthen train.warmup_fraction"
            )
        if not np.isfinite(result.accuracy):
            raise exploded(step)
        if result.reaches.max() >= exact.LIMIT:
            raise InputError(
                f"train: step {step - steps + int(np.argmax(result.reaches >= exact.LIMIT))}: found gradients up to "
                f"{result.reaches.max():.3g} in sum, expected less than {exact.LIMIT:g}, up to which "
                "train.deterministic is exact; lower train.learning_rate, or train without train.deterministic"
            )
        return result

    def _restore(self) -> tuple[int, bool]:
        """Load the last checkpoint on rank 0, give it to all ranks; return the step to go on from.

        And whether an epoch ends there that was not validated, as the training was stopped.
        """
        step, validated = 0, True
        if self.rank == 0:
            checkpoint.clean(self.run_dir.checkpoints)
            check_room(self.run_dir.path, self.network.state_bytes, self.config.keep_checkpoints)
            found = checkpoint.latest(self.run_dir.checkpoints, self.key)
            if found:
                self._take_over(found)
                step, validated = found.position.step, found.validated
                log.info("train: going on from step %d of %d", step, self.total_steps)
            elif self.config.initial_model:
                self.network.warm_start(Path(self.config.initial_model))
        step, known = (int(number) for number in self.collective.gather(np.array([step, validated], np.int64))[:2])
        self.collective.broadcast([variable for _, variable in self.network.variables()])
        is_end = step % self.order.steps == 0 or step == self.total_steps
        return step, is_end and not known

    def _take_over(self, found: checkpoint.Checkpoint) -> None:
        try:
            self.network.restore(dict(found.arrays))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{self.run_dir.checkpoints}: found another network's state ({one_line(error)[:200]}), expected model "
                f"{self.config.model}'s; fix: remove it to train from the start"
            ) from error

    def _save(self, writer: checkpoint.Writer, step: int, validation: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint on rank 0, where the state is the same as on every rank. `validation`: of that state."""
        if self.rank == 0:
            self.heartbeat.tell("checkpoint", step)
            arrays = self.network.state()
            require_finite(arrays, step)
            state = checkpoint.Checkpoint(checkpoint.Position(step, self.key), arrays, validation is not None)
            writer.save(state, validation["accuracy"] if validation else None)

    def _validate(self, step: int) -> dict[str, Any]:
        self.heartbeat.tell("validation", step)
        return self.validation.run(self.evaluate, self.collective, lambda: self.heartbeat.progressed("validation"))

    def _finish(self, step: int, validation: dict[str, Any]) -> None:
        """Compare the ranks' weights, then write model and record; raise InputError where they are not finite."""
        require_finite(self.network.state(), step)
        digests = self._weight_digests()
        if len(set(digests)) > 1:
            raise IdxtrainError(f"the ranks' weights differ at the end: {digests}; this must not be, please report it")
        if self.rank == 0:
            model = portable(self.network.final)
            write_atomic(self.run_dir.model_file, model.save)
            self.heartbeat.progressed("finish")
            outputs = {
                "model_sha256": sha256_file(self.run_dir.model_file),
                "world_size": self.world_size,
                "steps": step,
                "images": images_seen(self.order, step),
                "images_per_second": self.meter.rate,
                "precision": self.precision,
                "validation": validation,
                "weights_sha256": digests,
                "versions": versions(),
            }
            write_record(self.run_dir, "train", self.key, outputs, [self.run_dir.model_file])
        self.collective.barrier()

    def _weight_digests(self) -> list[str]:
        """Return the SHA-256 of every rank's weights and slots."""
        digest = hashlib.sha256()
        for _, variable in self.network.variables():
            digest.update(variable.numpy().tobytes())
            self.heartbeat.progressed("finish")
        gathered = self.collective.gather(np.frombuffer(digest.digest(), np.uint8))
        return [row.tobytes().hex() for row in gathered.reshape(self.world_size, -1)]


def make_step(config: TrainConfig, network: Network, collective: Collective, seed: int) -> TrainStep:
    """Return the training step that a config describes, of that network."""
    augmentation = Augmentation(
        config.shift, config.rotate, config.zoom, config.elastic, config.elastic_sigma, config.sharp_fraction
    )
    how = HowTaken(
        config.label_smoothing,
        config.clip_norm,
        config.microbatches,
        config.fixed_slices,
        config.compression,
    )
    return TrainStep(
        network.model, network.optimizer, collective, augmentation, seed, how, network.ema, network.loss_scale
    )


def require_finite(arrays: Mapping[str, NDArray[Any]], step: int) -> None:
    """Raise InputError where a state is of no use: what the next loss would show, which the last update has not."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise exploded(step)


def exploded(step: int) -> InputError:
    """Return the error that ends a training whose last update has left the model of no use."""
    return InputError(
        f"train: step {step}: weights or outputs are not finite after the update; "
        "lower train.learning_rate or lengthen train.warmup_fraction"
    )


class Due:
    """Tells when the next checkpoint is due, by steps or by minutes."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        self._steps, self._minutes = config.checkpoint_every_steps, config.checkpoint_every_minutes
        self._last_step, self._last_time = step, time.monotonic()

    def now(self, step: int) -> bool:
        """Tell whether one is due after `step` updates; the clock starts anew where it is."""
        late = time.monotonic() - self._last_time >= 60 * self._minutes
        if late or (self._steps is not None and step - self._last_step >= self._steps):
            self._last_step, self._last_time = step, time.monotonic()
            return True
        return False


def check_room(path: Path, state_bytes: int, keep: int) -> None:
    """Raise InputError where the disk has no room for the checkpoints, with one more being written, and the model."""
    needed = state_bytes * (keep + 3)
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path}: found {free / 1e6:.0f} MB free on the disk, expected {needed / 1e6:.0f} MB for {keep} "
            "checkpoints and the model; make room, or lower train.keep_checkpoints"
        )


def versions() -> dict[str, str]:
    """Return the versions that a trained model's numbers may depend on."""
    packages = ("tensorflow", "keras", "horovod", "petastorm", "numpy", "pyarrow", "pyspark")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
