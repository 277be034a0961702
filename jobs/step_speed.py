"""How long a training step takes, measured by `idxtrain doctor --measure` and read by `idxtrain plan`.

A file of `WORK/speeds` holds the figures of one kind of step, on this machine or on a site's nodes.
"""

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs.config import Section
from jobs.dataset import PixelType
from jobs.errors import InputError, one_line
from jobs.files import read_object, sha256_json, write_json
from jobs.run_dir import Work
from jobs.train.config import TrainConfig

# The keys of `train` that decide how long a step takes, beside its batch and the shape of an image.
_KEYS = (
    *("model", "dropout", "standardize", "flip", "shift", "rotate", "zoom", "elastic", "elastic_sigma"),
    *("sharp_fraction", "border", "cutout", "microbatches", "clip_norm", "ema_decay", "optimizer", "precision"),
    *("compression", "deterministic", "slices"),
)


class StepSpeed(Section):
    """A step on N ranks, in seconds; medians on the slowest rank.

    `rows`: of a rank, at most. `seconds`: of the whole step. `waited`: of that, in allreduce. `fewer_rows`,
    `fewer_seconds`: of a step on a smaller batch, without its allreduce. `validation_row`: of one validation row on one
    rank. `gradient_bytes`, `gradient_seconds`: an allreduce of a step's gradients alone. `latency`: of one number.
    """

    ranks: int = Field(ge=1)
    rows: int = Field(ge=1)
    seconds: float = Field(gt=0)
    waited: float = Field(ge=0)
    fewer_rows: int = Field(ge=1)
    fewer_seconds: float = Field(ge=0)
    validation_row: float = Field(ge=0)
    gradient_bytes: int = Field(ge=0)
    gradient_seconds: float = Field(ge=0)
    latency: float = Field(ge=0)


class StepSpeeds(Section):
    """What was measured of one kind of step. `host`: the machine, or a site's first node; `device`: a rank's, in words;
    of several ranks that share the host, that of the fewest.

    `site`: None if all ranks shared the host.
    """

    host: str
    site: str | None
    device: str
    batch_size: int = Field(ge=1)
    steps: tuple[StepSpeed, ...] = Field(min_length=1)

    @property
    def place(self) -> str:
        """The site, or the machine, in words. A work folder may have figures of several machines."""
        if self.site is not None:
            return f"site {self.site}"
        return "this machine" if self.host == platform.node() else self.host


def key(config: TrainConfig, batch_size: int, row_shape: Sequence[int], pixels: PixelType) -> str:
    """Return the 16 hex digits that name a kind of step. `batch_size`: of the global batch."""
    height, width, channels = (*row_shape, 1)[:3]
    values = config.model_dump(mode="json", include=set(_KEYS))
    shape = [height, width, channels]
    return sha256_json({"train": values, "batch": batch_size, "shape": shape, "pixels": pixels})[:16]


def write(work: Work, name: str, speeds: StepSpeeds) -> Path:
    """Write the speeds of a kind of step at one place, in place of earlier ones; return the file."""
    place = f"site-{speeds.site}" if speeds.site else f"host-{speeds.host}"
    path = work.speeds / f"{name}.{re.sub(r'[^A-Za-z0-9._-]', '_', place)}.json"
    path.parent.mkdir(mode=0o775, parents=True, exist_ok=True)
    write_json(path, speeds.model_dump(mode="json"))
    return path


def read(work: Work, name: str) -> list[StepSpeeds]:
    """Return what was measured of a kind of step, machines first. Raises InputError for a damaged file."""
    return [_read(path) for path in sorted(work.speeds.glob(f"{name}.*.json"))]


def _read(path: Path) -> StepSpeeds:
    fix = "remove it, or measure again"
    raw: dict[str, Any] = read_object(path, fix)
    try:
        return StepSpeeds.model_validate(raw)
    except ValueError as error:
        raise InputError(f"{path}: {one_line(error)}; fix: {fix}") from error
