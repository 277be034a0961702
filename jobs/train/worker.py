"""One rank of a training, from the run folder to the trained model."""

import hashlib
import logging
import platform
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from jobs.dataset import PixelType, Split, read_manifest
from jobs.errors import IdxtrainError, InputError, PeerLostError, one_line
from jobs.files import remove_unfinished, sha256_file, write_atomic
from jobs.flight_log import Flight
from jobs.metrics import EndReason
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, stage_key, write_record
from jobs.train import checkpoint
from jobs.train.best import Best, better, stops_early
from jobs.train.caveats import training_caveats
from jobs.train.class_weights import class_weights
from jobs.train.compute import devices
from jobs.train.compute.collective import Collective, is_lost_peer
from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.network import Network
from jobs.train.compute.precision import choose_precision
from jobs.train.compute.step import LocalResult, StepOptions, TrainStep
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall, max_steps_per_execution, plan_calls, read_epochs
from jobs.train.data.length import images_seen, row_order, total_steps, validation_steps
from jobs.train.data.row_cache import keeps_all_rows, shared_cache
from jobs.train.data.shard_cache import ShardStore
from jobs.train.divergence import require_finite, require_sound
from jobs.train.stop import StopRequest, stopped
from jobs.train.telemetry.console import Console, report_end
from jobs.train.telemetry.flight_recorder import FlightRecorder
from jobs.train.telemetry.heartbeat import Heartbeat, Phase
from jobs.train.telemetry.measure import Measurement, exchange
from jobs.train.telemetry.row_audit import RowAudit
from jobs.train.telemetry.throughput import Throughput
from jobs.train.telemetry.time_left import TimeLeft
from jobs.train.validation import Validation
from models.training.augment import Augmentation
from models.training.export import portable
from models.training.schedules import Rates

log = logging.getLogger("idxtrain")


def train(run: RunDir, heartbeat: Heartbeat) -> None:
    """Run one rank: train and validate; rank 0 also writes checkpoints, logs, the model and the stage's record.

    Raises PeerLostError if another rank is gone, which reports the cause itself.
    """
    try:
        Training(run, run.section("train", TrainConfig), heartbeat).run()
    except (tf.errors.OpError, RuntimeError) as error:
        if is_lost_peer(error):
            raise PeerLostError(f"train: another rank is gone ({one_line(error)[:200]})") from error
        raise


class Training:
    """One rank's state."""

    def __init__(self, run: RunDir, config: TrainConfig, heartbeat: Heartbeat) -> None:
        self.run_dir, self.config, self.heartbeat = run, config, heartbeat
        self.stop = StopRequest()
        self.key = stage_key(run, "train")
        seed = int(run.read_config()["seed"])
        self.dataset = dataset_of(run)
        self.manifest = read_manifest(self.dataset)

        self.collective = Collective()
        self.rank, self.world_size = self.collective.rank, self.collective.world_size
        self.precision, device = configure_tensorflow(config, self.collective)
        if self.rank == 0:
            ranks = f"{self.world_size} ranks, each" if self.world_size > 1 else "1 rank"
            log.info("train: %s on %s, in %s", ranks, device, self.precision)

        local_rank, local_size = self.collective.local_rank, self.collective.local_size
        self.memory = shared_cache(config, self.manifest, local_rank, local_size, self.collective.gather)
        keep = self.memory is not None or keeps_all_rows(config, self.manifest, local_size)  # counts both splits
        self.store = self._store("train", "input", keep)
        validation_rows = self._store("validation", "validation", keep)
        self.validation = Validation(validation_rows, config.fixed_slices, self.manifest.classes)
        self.order = row_order(config, self.store.shard_rows, seed)
        self.max_steps = max_steps_per_execution(
            self.order, image_bytes=self.manifest.image_bytes, world_size=self.world_size
        )
        self.total_steps = total_steps(config, self.order)
        self.validation_steps = validation_steps(config, self.order)
        peak_rate = config.peak_rate(self.order.batch_size)
        self.rates = Rates(
            config.schedule, self.total_steps, peak_rate, config.warmup_fraction, config.final_rate_fraction
        )
        self.best: Best | None = None

        self.network = Network(config, self.manifest, seed, self.precision)
        pixels = self.manifest.pixel_type
        weights = class_weights(config, self.manifest)
        self.train_step = make_step(config, self.network, self.collective, seed, weights, pixels)
        self.evaluate = make_evaluator(self.network.final, pixels)
        self.unmeasured: list[tuple[LocalResult, Flight]] = []  # calls since the last measurement
        self.throughput = Throughput()
        self.recorder = FlightRecorder(run.logs / f"flight.rank-{self.rank}.jsonl")
        self.audit = RowAudit(run.logs / f"rows.rank-{self.rank}.jsonl") if config.audit else None

    def _store(self, split: Split, phase: Phase, keep: bool) -> ShardStore:
        """Return a split's rows; each shard read is progress in `phase`. `keep`: in memory after the first epoch."""
        on_shard = partial(self.heartbeat.progressed, phase)
        return ShardStore(self.dataset, self.manifest, split, self.config.reader_threads, keep, on_shard, self.memory)

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end."""
        step, owes_validation = self._restore()
        validation: dict[str, Any] = {}
        writer = checkpoint.Writer(
            self.run_dir.checkpoints, self.config.keep_checkpoints, self.config.checkpoint_min_seconds
        )
        timer = checkpoint.Timer(self.config, step)
        with self._console(step) as console, closing(self._read(step)) as calls:
            if owes_validation:
                validation = self._end_epoch(step, console, writer)
            while step < self.total_steps and not self._stops_early(step):
                epoch = step // self.order.steps
                for call, input_seconds in self._epoch(calls, step):
                    self._train(call, input_seconds)
                    step = call.end_step
                    if console:
                        console.called(step)
                    if not call.measured:
                        continue
                    result = self._measure(step, call.global_rows)
                    if console:
                        console.trained(step, epoch, result, self.throughput.images_per_second)
                    if result.stop:
                        self._save(writer, step)
                        writer.wait()
                        raise stopped(step, self.total_steps, self.run_dir)
                    if timer.is_due(step) and not self._is_validated(step):  # a validation has its own
                        self._save(writer, step)
                if self._is_validated(step):
                    validation = self._end_epoch(step, console, writer)
            writer.wait()
            if console:
                console.ended(step)
        kept = self._keep_best(step)
        if kept:
            validation = kept.validation
        validation = validation or self._validate(step)
        self.heartbeat.enter("finish", step)
        self._finish(step, kept.step if kept else step, validation)

    def _is_validated(self, step: int) -> bool:
        """Return whether a validation follows after `step` updates."""
        return step % self.validation_steps == 0 or step == self.total_steps

    def _stops_early(self, step: int) -> bool:
        return stops_early(self.best, step, self.validation_steps, self.config)

    def _keep_best(self, step: int) -> Best | None:
        """Make the state the one of the best validation, if that is to be kept; return the best."""
        if self.config.keep == "last" or self.best is None:
            return None
        if self.best.step != step:
            if self.rank == 0:
                self._load(checkpoint.load_best(self.run_dir.checkpoints, self.best, self.key))
            self.collective.broadcast([variable for _, variable in self.network.variables()])
        return self.best

    def _end_epoch(self, step: int, console: Console | None, writer: checkpoint.Writer) -> dict[str, Any]:
        """Validate, save a checkpoint unless the last one is new and training continues; return the validation."""
        validation = self._validate(step)
        self.best = better(self.best, step, validation, self.config)
        if console:
            console.validated(step, validation, self.validation.confusion)
        is_last = step == self.total_steps or self._stops_early(step)
        self._save(writer, step, validated=True, only_if_due=not is_last)
        return validation

    def _console(self, step: int) -> AbstractContextManager[Console | None]:
        if self.rank:
            return nullcontext()
        validation_in_steps = self.manifest.splits["validation"].rows / self.order.batch_size
        left = TimeLeft(self.total_steps, self.validation_steps, validation_in_steps)
        names = self.manifest.class_names
        return Console(self.run_dir, self.network.model, self.rates, step, left, names)

    def _read(self, step: int) -> Generator[GraphCall, None, None]:
        """Return the graph calls from `step` to the end of the training."""
        epochs = range(step // self.order.steps, -(-self.total_steps // self.order.steps))
        every, most = self.config.log_every, self.max_steps
        plans = ((epoch, plan_calls(self.order, epoch, step, self.total_steps, every, most)) for epoch in epochs)
        return read_epochs(self.store, self.order, plans, self.rank, self.world_size)

    def _epoch(self, calls: Iterator[GraphCall], step: int) -> Iterator[tuple[GraphCall, float]]:
        """Yield the graph calls to the end of the epoch, each with the seconds this rank waited for its rows."""
        end = min((step // self.order.steps + 1) * self.order.steps, self.total_steps)
        while step < end:
            self.heartbeat.enter("input", step)
            begin = time.monotonic()
            call = next(calls)
            self.heartbeat.enter("step", call.first_step)
            yield call, time.monotonic() - begin
            step = call.end_step

    def _train(self, call: GraphCall, input_seconds: float) -> None:
        """Run one graph call."""
        begin = time.monotonic()
        local = self.train_step(call, self.rates[call.first_step : call.end_step])
        seconds = time.monotonic() - begin
        self.heartbeat.begun()
        flight = Flight(
            step=call.end_step,
            images=len(call.indices),
            input=input_seconds,
            compute=seconds - local.allreduce_seconds,
            allreduce=local.allreduce_seconds,
        )
        self.unmeasured.append((local, flight))
        self.recorder.record(flight)
        if self.audit:
            self.audit.record(call)

    def _measure(self, step: int, global_rows: int) -> Measurement:
        """Measure the calls up to `step` over all ranks. Raises InputError if the training diverged."""
        begin = time.monotonic()
        result = exchange(self.collective, self.unmeasured, global_rows, self.stop.requested)
        seconds = sum(flight.compute + flight.allreduce for _, flight in self.unmeasured) + time.monotonic() - begin
        self.throughput.add(len(result.losses) * global_rows, seconds)
        self.unmeasured.clear()
        require_sound(result, step)
        return result

    def _restore(self) -> tuple[int, bool]:
        """Load the last checkpoint on rank 0 and send it to all ranks; return the step to resume from.

        Also return whether an epoch ends at that step whose validation has not run, as the training was stopped there.
        """
        step, validated, best = 0, True, None
        if self.rank == 0:
            remove_unfinished(self.run_dir.checkpoints)
            checkpoint.require_disk_space(self.run_dir.path, self.network.state_bytes, self.config.keep_checkpoints)
            keeps_best = self.config.keep == "best"
            last = checkpoint.latest(self.run_dir.checkpoints, self.key, with_best=keeps_best)
            if last:
                self._load(last)
                step, validated, best = last.position.step, last.validated, last.best
                log.info("train: resuming from step %s of %s", f"{step:,}", f"{self.total_steps:,}")
            elif self.config.initial_model:
                self.network.warm_start(Path(self.config.initial_model))
        numbers = best.to_numbers() if best else []
        state = self.collective.gather(np.array([step, validated, *numbers, *(4 - len(numbers)) * [np.nan]]))
        step, is_validated = int(state[0]), bool(state[1])  # rank 0's
        self.best = Best.from_numbers(state[2:6].tolist()) if np.isfinite(state[2]) else None
        self.collective.broadcast([variable for _, variable in self.network.variables()])
        return step, self._is_validated(step) and not is_validated

    def _load(self, last: checkpoint.Checkpoint) -> None:
        try:
            self.network.restore(dict(last.arrays))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{self.run_dir.checkpoints}: found another network's state ({one_line(error)[:200]}), expected "
                f"that of model {self.config.model}; fix: remove the folder to train from the start"
            ) from error

    def _save(
        self, writer: checkpoint.Writer, step: int, *, validated: bool = False, only_if_due: bool = False
    ) -> None:
        """Write a checkpoint on rank 0; the state is the same on every rank. `validated`: an epoch's end is.

        `only_if_due`: not if the last one is new. If this is the best state, the next checkpoint takes it along.
        """
        if self.rank:
            return
        is_written = writer.is_due() or not only_if_due
        is_best = self.config.keep == "best" and self.best is not None and self.best.step == step
        if is_written or is_best:
            self.heartbeat.enter("checkpoint", step)
            arrays = self.network.state()
            require_finite(arrays, step)
            position = checkpoint.Position(step, self.key)
            state = checkpoint.Checkpoint(position=position, arrays=arrays, validated=validated, best=self.best)
            if is_written:
                writer.save(state)
            else:
                writer.hold(state)

    def _validate(self, step: int) -> dict[str, Any]:
        self.heartbeat.enter("validation", step)
        return self.validation.run(self.evaluate, self.collective, lambda: self.heartbeat.progressed("validation"))

    def _finish(self, step: int, kept_step: int, validation: dict[str, Any]) -> None:
        """Compare the ranks' weights, then write model and record on rank 0. Raises InputError if not finite.

        `kept_step`: to which the state belongs. `validation`: of that state.
        """
        require_finite(self.network.state(), step)
        digests = self._weight_digests()
        if len(set(digests)) > 1:
            raise IdxtrainError(
                f"train: found different weights on the ranks at the end ({', '.join(digests)}), expected equal ones; "
                "fix: this is a bug, please report it"
            )
        if self.rank == 0:
            model = portable(self.network.final)
            write_atomic(self.run_dir.model_file, model.save)
            self.heartbeat.progressed("finish")
            reason: EndReason = "early-stopping" if step < self.total_steps else "length"
            caveats = training_caveats(self.run_dir.curve_file, step, self.config, reason)
            report_end(step, kept_step, reason, caveats)
            outputs = {
                "model_sha256": sha256_file(self.run_dir.model_file),
                "world_size": self.world_size,
                "steps": step,
                "images": images_seen(self.order, step),
                "batch_size": self.order.batch_size,
                "kept_step": kept_step,
                "ended_by": reason,
                "caveats": [caveat.model_dump(mode="json") for caveat in caveats],
                "images_per_second": self.throughput.images_per_second,
                "precision": self.precision,
                "validation": validation,
                "weights_sha256": digests,
                "versions": versions(),
            }
            write_record(self.run_dir, "train", self.key, outputs, [self.run_dir.model_file])
        self.collective.barrier()

    def _weight_digests(self) -> list[str]:
        """Return the SHA-256 of every rank's state, in rank order."""
        digest = hashlib.sha256()
        for _, variable in self.network.variables():
            digest.update(variable.numpy().tobytes())
            self.heartbeat.progressed("finish")
        gathered = self.collective.gather(np.frombuffer(digest.digest(), np.uint8))
        return [row.tobytes().hex() for row in gathered.reshape(self.world_size, -1)]


def configure_tensorflow(config: TrainConfig, collective: Collective) -> tuple[str, str]:
    """Give TensorFlow its CPUs or GPU, determinism and precision; return the precision, and the device in words."""
    device = devices.configure(tf, collective.local_rank, collective.local_size, config.deterministic)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    if config.optimizer == "muon":
        # GPUs multiply float32 matrices in TF32 by default: too few bits for the iteration on Gram matrices.
        tf.config.experimental.enable_tensor_float_32_execution(False)
    return choose_precision(tf, config, collective), device


def make_step(
    config: TrainConfig,
    network: Network,
    collective: Collective,
    seed: int,
    weights: tuple[float, ...] | None = None,
    pixels: PixelType = "float32",
) -> TrainStep:
    """Return the training step of a network that a config describes.

    `weights`: of the classes; None: all 1. `pixels`: the type of the images that it gets.
    """
    augmentation = Augmentation(
        flip=config.flip,
        shift=config.shift,
        rotate=config.rotate,
        zoom=config.zoom,
        elastic=config.elastic,
        elastic_sigma=config.elastic_sigma,
        sharp_fraction=config.sharp_fraction,
        border=config.border,
        cutout=config.cutout,
    )
    options = StepOptions(
        smoothing=config.label_smoothing,
        class_weights=weights,
        clip_norm=config.clip_norm,
        microbatches=config.microbatches,
        slices=config.fixed_slices,
        compression=config.compression,
        pixels=pixels,
    )
    return TrainStep(
        network.model, network.optimizer, collective, augmentation, seed, options, network.ema, network.loss_scale
    )


def versions() -> dict[str, str]:
    """Return the versions that a model's numbers may depend on."""
    packages = ("tensorflow", "keras", "horovod", "petastorm", "numpy", "pyarrow", "pyspark")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
