"""Checkpoints: weights, optimizer slots and the step they belong to, in one safetensors file.

Safetensors holds arrays and text, nothing executable: https://github.com/huggingface/safetensors. A checkpoint is
written to a temporary file, flushed and renamed. A second file, written after it, has its SHA-256. So a torn or altered
checkpoint is recognized, and the previous one is used.

The step completes a state. Row order, dropout masks and augmentation are functions of (seed, step), so there is no
random generator to save, and the position in the epoch follows from the step.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jobs.checkpoint_names import checkpoint_name, step_of
from jobs.errors import IdxtrainError, InputError, one_line
from jobs.files import sha256_file, write_atomic, write_json
from jobs.train.best import Best
from jobs.train.config import TrainConfig

log = logging.getLogger("idxtrain")

# To be raised with each change after which the same config would resume differently: other arrays, another row order.
# It is not part of the key, which the stage's record also has: a finished training stays finished.
FORMAT = 2

# What reading a damaged file may raise: see the tests with mutated files.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError)


@dataclass(frozen=True)
class Position:
    """Where a state belongs. `step`: updates done. `key`: the stage's key, a hash of config, dataset and seed."""

    step: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state of the training: arrays by name, e.g. `weight.0` or `m.0`.

    `validated`: an epoch ended here and its validation ran. `best`: the best validation up to here; None if there was
    none. It travels with the state, so that a resumed training has the same best. `format`: see FORMAT.
    """

    position: Position
    arrays: Mapping[str, NDArray[Any]]
    validated: bool = False
    best: Best | None = None
    format: int = FORMAT


class Writer:
    """Writes checkpoints in a thread, one at a time, while the training continues.

    The training waits only for the copy of the arrays, and for the previous checkpoint if it is still being written.
    """

    def __init__(self, directory: Path, keep: int, min_seconds: float = 0.0) -> None:
        """`min_seconds`: that the last checkpoint is to be old before another one `is_due`."""
        self._directory, self._keep, self._min_seconds = directory, keep, min_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        self._last_step, self._last_time = -1, time.monotonic()
        self._held: Checkpoint | None = None

    def is_due(self) -> bool:
        """Return whether the last checkpoint, or the start, is so long ago that one more is worth its writing."""
        return time.monotonic() - self._last_time >= self._min_seconds

    def hold(self, checkpoint: Checkpoint) -> None:
        """Keep the state of the best validation in memory, to be written before the next checkpoint that names it."""
        self._held = checkpoint

    def save(self, checkpoint: Checkpoint) -> None:
        """Start to write a checkpoint. Raises the error of the previous one, e.g. OSError for a full disk."""
        self.wait()
        if checkpoint.position.step == self._last_step and not checkpoint.validated:
            return
        self._last_step, self._last_time = checkpoint.position.step, time.monotonic()
        held, self._held = self._held, None
        is_needed = held is not None and checkpoint.best is not None and checkpoint.best.step == held.position.step
        both = [held, checkpoint] if held and is_needed else [checkpoint]
        self._running = self._thread.submit(self._save_all, both)

    def _save_all(self, checkpoints: Sequence[Checkpoint]) -> None:
        for each in checkpoints:
            save(self._directory, each, self._keep)

    def wait(self) -> None:
        """Wait until the checkpoint is written; raise its error."""
        if self._running:
            self._running.result()
            self._running = None


def save(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint; return its path. Remove all others but the last `keep` up to this step, and their best."""
    directory.mkdir(exist_ok=True)
    path = directory / checkpoint_name(checkpoint.position.step)
    best = asdict(checkpoint.best) if checkpoint.best else None
    metadata = {
        "format": json.dumps(checkpoint.format),
        "position": json.dumps(asdict(checkpoint.position)),
        "validated": json.dumps(checkpoint.validated),
        "best": json.dumps(best),
    }
    _sum_file(path).unlink(missing_ok=True)
    write_atomic(path, lambda temporary: _save_arrays(checkpoint.arrays, temporary, metadata))
    write_json(
        _sum_file(path), {"sha256": sha256_file(path), "bytes": path.stat().st_size, "best_step": best and best["step"]}
    )
    steps = _steps(directory)
    # Later checkpoints were skipped when the training resumed: they are damaged or another training's.
    kept = [step for step in steps if step <= checkpoint.position.step][-keep:]
    # The best of an older one, too: it is used if the newest turns out to be damaged.
    kept += [best_step for step in kept if (best_step := _best_step(directory / checkpoint_name(step))) is not None]
    for step in steps:
        if step not in kept:
            old = directory / checkpoint_name(step)
            _sum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return path


def _best_step(path: Path) -> int | None:
    """Return the step of the best checkpoint up to this one; None if it has none or its .json file is damaged."""
    try:
        return int(json.loads(_sum_file(path).read_text(encoding="utf-8"))["best_step"])
    except _DAMAGED:
        return None


def _save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:  # a full disk raises this, too
        raise IdxtrainError(f"{path.parent}: cannot write a checkpoint ({one_line(error)})") from error


def latest(directory: Path, key: str, *, with_best: bool = False) -> Checkpoint | None:
    """Return the newest intact checkpoint of the training with this key; None if there is none.

    Torn, altered and other trainings' checkpoints are skipped with a warning, and `with_best` also those whose best
    checkpoint is. Raises InputError if this training's has another format, which another version of idxtrain wrote.
    """
    for step in reversed(_steps(directory)):
        path = directory / checkpoint_name(step)
        try:
            checkpoint = _load(path, step)
            if checkpoint.position.key != key:
                log.warning("train: %s: another training's checkpoint; trying the previous one", path)
                continue
            if with_best and checkpoint.best and checkpoint.best.step != step:
                load_best(directory, checkpoint.best, key)
        except _DAMAGED as error:
            log.warning("train: %s: damaged checkpoint (%s); trying the previous one", path, one_line(error))
            continue
        if checkpoint.format != FORMAT:
            raise InputError(
                f"{path}: found format {checkpoint.format}, expected {FORMAT}; fix: resume with the version of "
                f"idxtrain that wrote it, or remove {directory} to train from the start"
            )
        return checkpoint
    return None


def load_best(directory: Path, best: Best, key: str) -> Checkpoint:
    """Return the checkpoint of the best validation. Raises one of several errors if it is damaged or missing."""
    checkpoint = _load(directory / checkpoint_name(best.step), best.step)
    if checkpoint.position.key != key:
        raise ValueError(f"its best, of step {best.step}, is another training's")
    return checkpoint


def _load(path: Path, step: int) -> Checkpoint:
    expected = json.loads(_sum_file(path).read_text(encoding="utf-8"))
    if (path.stat().st_size, sha256_file(path)) != (expected["bytes"], expected["sha256"]):
        raise ValueError("found another size or checksum than in its .json file")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        position = json.loads(metadata["position"])
        # Development versions of 0.1.0 wrote neither format nor validated.
        version, validated = int(metadata.get("format", "1")), metadata.get("validated") == "true"
        best = json.loads(metadata.get("best", "null"))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    checkpoint = Checkpoint(
        position=Position(int(position["step"]), str(position["key"])),
        arrays=arrays,
        validated=validated,
        best=Best.from_json(best) if best else None,
        format=version,
    )
    if checkpoint.position.step != step:
        raise ValueError(f"found step {checkpoint.position.step} in it, expected {step}")
    return checkpoint


def _steps(directory: Path) -> list[int]:
    """Return the steps of all checkpoints, in order."""
    return sorted(step for path in directory.glob("*.safetensors") if (step := step_of(path.name)) is not None)


def _sum_file(path: Path) -> Path:
    return path.with_suffix(".json")


class Timer:
    """Decides when the next checkpoint is due between the ends of epochs: after N steps or N minutes."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        """`step`: the training begins or resumes after this many updates."""
        self._steps, self._minutes = config.checkpoint_every_steps, config.checkpoint_every_minutes
        self._last_step, self._last_time = step, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step` updates; if it is, count from here again."""
        late = time.monotonic() - self._last_time >= 60 * self._minutes
        if late or (self._steps is not None and step - self._last_step >= self._steps):
            self._last_step, self._last_time = step, time.monotonic()
            return True
        return False


def require_disk_space(path: Path, state_bytes: int, keep: int) -> None:
    """Raise InputError if the disk has no room for `keep` checkpoints, the best, an unfinished one, and the model."""
    needed = state_bytes * (keep + 3)
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path}: found {free / 1e6:.0f} MB free on the disk, expected {needed / 1e6:.0f} MB for {keep} "
            "checkpoints and the model; fix: free some space or lower train.keep_checkpoints"
        )
