"""Training states on disk: weights, optimizer slots and where in the training they belong, in one safetensors file.

Safetensors holds arrays and text, nothing executable: https://github.com/huggingface/safetensors. A checkpoint is
written aside, flushed and renamed; its own SHA-256 lies in a second file beside it, written after it, so that a torn or
altered one is recognized and the one before is used.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jobs.files import sha256_file, write_atomic, write_json

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class Position:
    """Where a state belongs. `step`: updates done. `key`: the hash of all that decides the training (stage key)."""

    step: int
    key: str


@dataclass(frozen=True)
class Checkpoint:
    """A state of the training: arrays by name, e.g. `weight.0` or `m.0`."""

    position: Position
    arrays: Mapping[str, np.ndarray]


def save(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and remove all but the last `keep`; return its path."""
    directory.mkdir(exist_ok=True)
    path = directory / f"step-{checkpoint.position.step:08d}.safetensors"
    metadata = {"position": json.dumps(asdict(checkpoint.position))}
    # Arrays are little-endian and C-ordered in the file; numpy's own may be views of anything.
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    _sum_file(path).unlink(missing_ok=True)
    write_atomic(path, lambda temporary: save_file(arrays, temporary, metadata))
    write_json(_sum_file(path), {"sha256": sha256_file(path), "bytes": path.stat().st_size})
    for old in _paths(directory)[:-keep]:
        _sum_file(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def latest(directory: Path, key: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of this very training; None where there is none.

    One that is torn, altered or of another training is passed over with a warning.
    """
    for path in reversed(_paths(directory)):
        try:
            checkpoint = _load(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s: is not whole (%s); using the one before", path, " ".join(str(error).split()))
            continue
        if checkpoint.position.key == key:
            return checkpoint
        log.warning("%s: belongs to another training; not used", path)
    return None


def _load(path: Path) -> Checkpoint:
    expected = json.loads(_sum_file(path).read_text(encoding="utf-8"))
    if (path.stat().st_size, sha256_file(path)) != (expected["bytes"], expected["sha256"]):
        raise ValueError("its checksum is not the one written with it")
    with safe_open(path, "numpy") as file:
        position = json.loads(file.metadata()["position"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return Checkpoint(Position(int(position["step"]), str(position["key"])), arrays)


def _paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*.safetensors"))


def _sum_file(path: Path) -> Path:
    return path.with_suffix(".json")
