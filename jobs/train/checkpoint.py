"""Training states on disk: weights, optimizer slots and where in the training they belong, in one safetensors file.

Safetensors holds arrays and text, nothing executable: https://github.com/huggingface/safetensors. A checkpoint is
written aside, flushed and renamed; its own SHA-256 lies in a second file beside it, written after it, so that a torn or
altered one is recognized and the one before is used.

A state is complete with its step: the order of rows, dropout masks and augmentation are functions of (seed, step), so
there is no random generator to keep, and the position within the epoch follows from the step.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jobs.errors import IdxtrainError, InputError, one_line
from jobs.files import sealed, sha256_file, take_seal, unfinished, write_atomic, write_json

log = logging.getLogger("idxtrain")

# Raised with each change after which the same config goes on otherwise: other arrays, another order of rows. It is not
# part of the key, which the stage's record has, too: a finished training stays finished.
FORMAT = 1

_BEST = "best.json"
# What reading a damaged file may raise: see the tests with mutated ones.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError)


@dataclass(frozen=True)
class Position:
    """Where a state belongs. `step`: updates done. `key`: the hash of config, dataset and seed (the stage's key)."""

    step: int
    key: str


@dataclass(frozen=True)
class Checkpoint:
    """A state of the training: arrays by name, e.g. `weight.0` or `m.0`.

    `validated`: whether it was, at the end of an epoch. `format`: see FORMAT.
    """

    position: Position
    arrays: Mapping[str, NDArray[Any]]
    validated: bool = False
    format: int = FORMAT


class Writer:
    """Writes checkpoints in a thread, one at a time, while the training goes on.

    What the training waits for is the copy of the arrays, and for the checkpoint before if that is still being written.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[Path] | None = None
        self._last_step = -1

    def save(self, checkpoint: Checkpoint, accuracy: float | None = None) -> None:
        """Write a checkpoint soon. `accuracy`: on the validation split; the best one's checkpoint is kept.

        Raises what went wrong with the one before, e.g. OSError for a full disk.
        """
        self.wait()
        if checkpoint.position.step == self._last_step and accuracy is None:
            return
        self._last_step = checkpoint.position.step
        self._running = self._thread.submit(save, self._directory, checkpoint, self._keep, accuracy)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._running:
            self._running.result()
            self._running = None


def save(directory: Path, checkpoint: Checkpoint, keep: int, accuracy: float | None = None) -> Path:
    """Write a checkpoint and remove all but the last `keep` up to it and the best; return its path."""
    directory.mkdir(exist_ok=True)
    path = directory / _name(checkpoint.position)
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
    paths = _paths(directory)
    # What lies behind this step was passed over when the training came here: broken, or another training's.
    kept = [old for old in paths if old <= path][-keep:]
    for old in paths:
        if old not in kept and (best is None or old.name != best[0]):
            _sum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return path


def _save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:  # its words for a full disk, too
        raise IdxtrainError(
            f"{path.parent}: a checkpoint cannot be written ({' '.join(str(error).split())})"
        ) from error


def read_best(directory: Path) -> tuple[str, float] | None:
    """Return the file name of the best checkpoint on the validation split, and its accuracy."""
    try:
        best = json.loads((directory / _BEST).read_text(encoding="utf-8"))
        found = str(best["file"]), float(best["accuracy"])
        # No accuracy exceeds NaN: it would stay the best for good.
        return found if take_seal(best) and isfinite(found[1]) else None
    except _DAMAGED:
        return None


def clean(directory: Path) -> None:
    """Remove what a writer that was killed left unfinished. Only for the one process that may write."""
    for path in unfinished(directory):
        path.unlink(missing_ok=True)


def latest(directory: Path, key: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of this very training; None where there is none.

    One that is torn, altered or of another training is passed over with a warning. Raises InputError for one of this
    training that another version of idxtrain wrote, in another format.
    """
    for path in reversed(_paths(directory)):
        try:
            checkpoint = _load(path)
        except _DAMAGED as error:
            log.warning("%s: is not whole (%s); using the one before", path, one_line(error))
            continue
        if checkpoint.position.key != key:
            log.warning("%s: belongs to another training; not used", path)
            continue
        if checkpoint.format != FORMAT:
            raise InputError(
                f"{path}: found format {checkpoint.format}, expected {FORMAT}; fix: resume with the version of "
                f"idxtrain that wrote it, or remove {directory} to train from the start"
            )
        return checkpoint
    return None


def _load(path: Path) -> Checkpoint:
    expected = json.loads(_sum_file(path).read_text(encoding="utf-8"))
    if (path.stat().st_size, sha256_file(path)) != (expected["bytes"], expected["sha256"]):
        raise ValueError("its checksum is not the one written with it")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        position = json.loads(metadata["position"])
        # 0.1.0 wrote neither of the others.
        version, validated = int(metadata.get("format", "1")), metadata.get("validated") == "true"
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    checkpoint = Checkpoint(Position(int(position["step"]), str(position["key"])), arrays, validated, version)
    if path.name != _name(checkpoint.position):
        raise ValueError(f"it holds step {checkpoint.position.step}")
    return checkpoint


def _name(position: Position) -> str:
    return f"step-{position.step:08d}.safetensors"


def _paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*.safetensors"))


def _sum_file(path: Path) -> Path:
    return path.with_suffix(".json")
