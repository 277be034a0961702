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
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jobs.checkpoint_names import checkpoint_name, step_of
from jobs.errors import IdxtrainError, InputError, one_line
from jobs.files import sealed, sha256_file, take_seal, unfinished, write_atomic, write_json
from jobs.train.config import TrainConfig

log = logging.getLogger("idxtrain")

# To be raised with each change after which the same config would resume differently: other arrays, another row order.
# It is not part of the key, which the stage's record also has: a finished training stays finished.
FORMAT = 1

_BEST = "best.json"
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

    `validated`: an epoch ended here and its validation ran. `format`: see FORMAT.
    """

    position: Position
    arrays: Mapping[str, NDArray[Any]]
    validated: bool = False
    format: int = FORMAT


class Writer:
    """Writes checkpoints in a thread, one at a time, while the training continues.

    The training waits only for the copy of the arrays, and for the previous checkpoint if it is still being written.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[Path] | None = None
        self._last_step = -1

    def save(self, checkpoint: Checkpoint, accuracy: float | None = None) -> None:
        """Start to write a checkpoint. `accuracy`: on the validation split; the best checkpoint is kept.

        Raises the error of the previous checkpoint, e.g. OSError for a full disk.
        """
        self.wait()
        if checkpoint.position.step == self._last_step and accuracy is None:
            return
        self._last_step = checkpoint.position.step
        self._running = self._thread.submit(save, self._directory, checkpoint, self._keep, accuracy)

    def wait(self) -> None:
        """Wait until the checkpoint is written; raise its error."""
        if self._running:
            self._running.result()
            self._running = None


def save(directory: Path, checkpoint: Checkpoint, keep: int, accuracy: float | None = None) -> Path:
    """Write a checkpoint, remove all others but the best and the last `keep` up to this step; return its path."""
    directory.mkdir(exist_ok=True)
    path = directory / checkpoint_name(checkpoint.position.step)
    metadata = {
        "format": json.dumps(checkpoint.format),
        "position": json.dumps(asdict(checkpoint.position)),
        "validated": json.dumps(checkpoint.validated),
    }
    _sum_file(path).unlink(missing_ok=True)
    write_atomic(path, lambda temporary: _save_arrays(checkpoint.arrays, temporary, metadata))
    write_json(_sum_file(path), {"sha256": sha256_file(path), "bytes": path.stat().st_size})
    best = read_best(directory)
    if accuracy is not None and (best is None or accuracy > best[1]):
        write_json(directory / _BEST, sealed({"file": path.name, "accuracy": accuracy}))
        best = path.name, accuracy
    steps = _steps(directory)
    # Later checkpoints were skipped when the training resumed: they are damaged or another training's.
    kept = [step for step in steps if step <= checkpoint.position.step][-keep:]
    for step in steps:
        old = directory / checkpoint_name(step)
        if step not in kept and (best is None or old.name != best[0]):
            _sum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return path


def _save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:  # a full disk raises this, too
        raise IdxtrainError(f"{path.parent}: cannot write a checkpoint ({one_line(error)})") from error


def read_best(directory: Path) -> tuple[str, float] | None:
    """Return the file name of the best checkpoint on the validation split and its accuracy; None if unknown."""
    try:
        best = json.loads((directory / _BEST).read_text(encoding="utf-8"))
        name, accuracy = str(best["file"]), float(best["accuracy"])
        # No accuracy exceeds NaN, which would stay the best forever.
        return (name, accuracy) if take_seal(best) and isfinite(accuracy) else None
    except _DAMAGED:
        return None


def clean(directory: Path) -> None:
    """Remove the unfinished files of a killed writer. Only the one process that may write calls this."""
    for path in unfinished(directory):
        path.unlink(missing_ok=True)


def latest(directory: Path, key: str) -> Checkpoint | None:
    """Return the newest intact checkpoint of the training with this key; None if there is none.

    Torn, altered and other trainings' checkpoints are skipped with a warning. Raises InputError if this training's has
    another format, which another version of idxtrain wrote.
    """
    for step in reversed(_steps(directory)):
        path = directory / checkpoint_name(step)
        try:
            checkpoint = _load(path, step)
        except _DAMAGED as error:
            log.warning("train: %s: damaged checkpoint (%s); trying the previous one", path, one_line(error))
            continue
        if checkpoint.position.key != key:
            log.warning("train: %s: another training's checkpoint; trying the previous one", path)
            continue
        if checkpoint.format != FORMAT:
            raise InputError(
                f"{path}: found format {checkpoint.format}, expected {FORMAT}; fix: resume with the version of "
                f"idxtrain that wrote it, or remove {directory} to train from the start"
            )
        return checkpoint
    return None


def _load(path: Path, step: int) -> Checkpoint:
    expected = json.loads(_sum_file(path).read_text(encoding="utf-8"))
    if (path.stat().st_size, sha256_file(path)) != (expected["bytes"], expected["sha256"]):
        raise ValueError("found another size or checksum than in its .json file")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        position = json.loads(metadata["position"])
        # Development versions of 0.1.0 wrote neither format nor validated.
        version, validated = int(metadata.get("format", "1")), metadata.get("validated") == "true"
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    checkpoint = Checkpoint(
        position=Position(int(position["step"]), str(position["key"])),
        arrays=arrays,
        validated=validated,
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
