"""The trainings of a sweep: every point of the grid or, with folds, every point on each fold; each is a run."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.slurm.site import JOB_STAGES
from jobs.errors import InputError
from jobs.files import read_object, write_json
from jobs.prepare.config import PrepareConfig
from jobs.run_dir import RunDir, Work

_MOST_RUNS = 1000  # Slurm's default limit of an array
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_SEED = "seed"
_VALIDATION = ("validation_from", "validation_rows")  # keys of section prepare that a fold sets
_FIX = "start it again with the same --grid and --name; its finished runs are kept"


@dataclass(frozen=True)
class Point:
    """One training. `settings`: its point of the grid, as --set takes it. `fold`: "I/K", or "" without folds."""

    run_id: str
    settings: tuple[str, ...]
    fold: str = ""

    @property
    def setting(self) -> tuple[str, ...]:
        """The point of the grid without its seed: trainings that differ in the seed alone repeat each other."""
        return tuple(each for each in self.settings if not each.startswith(f"{_SEED}="))

    @property
    def assignments(self) -> tuple[str, ...]:
        """All that distinguishes this training from the others, as --set takes it."""
        if not self.fold:
            return self.settings
        return (*self.settings, f"prepare.validation_from=fold:{self.fold}", "prepare.validation_rows=none")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's folder, `WORK/sweeps/NAME`, and its trainings; the folds of a point follow each other.

    `validation`: with folds, the keys of section prepare for the training of the best point, which is on no fold.
    """

    name: str
    work: Work
    points: tuple[Point, ...]
    validation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of scripts, logs and the table."""
        return self.work.sweeps / self.name

    @property
    def jobs_file(self) -> Path:
        """The job IDs by stage, of a sweep on Slurm."""
        return self.folder / "jobs.json"

    def table_log(self, job: str) -> Path:
        """Return the path of the log that Slurm writes for the job of the table."""
        return self.folder / f"table-{job}.out"

    def script_file(self, stage: str) -> Path:
        """Return the path of a stage's batch script."""
        return self.folder / f"{stage}.sh"

    def scripts(self) -> list[Path]:
        """Return the batch scripts, by which the sweep's jobs are known in the queue."""
        return [self.script_file(stage) for stage in JOB_STAGES]

    def run(self, point: Point) -> RunDir:
        """Return the run of a point."""
        return RunDir(self.work.runs / point.run_id)

    def write(self) -> None:
        """Write the sweep to `sweep.json`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        points = [asdict(point) for point in self.points]
        write_json(self.folder / "sweep.json", {"points": points, "validation": dict(self.validation)})


def grid_points(name: str, axes: Sequence[str], folds: int | None = None) -> tuple[Point, ...]:
    """Return all points of a grid, each once or once per fold; the last axis changes first, before it seed and fold.

    `axes`: e.g. "train.learning_rate=1e-4,1e-3" or "seed=0..4". Raises InputError for an axis that is not like that.
    """
    values = dict(sorted((_axis(axis) for axis in axes), key=lambda axis: axis[0] == _SEED))
    if len(values) < len(axes):
        raise InputError(f"--grid {axes[-1]}: found a key twice, expected each once")
    if folds and set(values) & {f"prepare.{key}" for key in _VALIDATION}:
        raise InputError(f"--folds {folds}: found prepare.validation_… in --grid, which a fold sets; fix: drop one")
    numbers = [f"{number}/{folds}" for number in range(1, folds + 1)] if folds else [""]
    trainings = list(itertools.product(itertools.product(*values.values()), numbers))
    if len(trainings) > _MOST_RUNS:
        what = f"points on {folds} folds" if folds else "points"
        found = f"{len(trainings) // len(numbers)} {what}"
        raise InputError(f"--grid: found {found}, expected {_MOST_RUNS} runs or fewer; fix: give fewer values")
    return tuple(
        Point(f"{name}-{number}", tuple(f"{key}={value}" for key, value in zip(values, point, strict=True)), fold)
        for number, (point, fold) in enumerate(trainings)
    )


def _axis(axis: str) -> tuple[str, list[str]]:
    """Return the key and the values of one axis."""
    key, equals, text = axis.partition("=")
    texts = [value for each in text.split(",") for value in _values(each.strip(), axis)]
    if not equals or not key.strip() or not all(texts):
        raise InputError(f"--grid {axis}: expected section.key=VALUE,VALUE,…, e.g. train.learning_rate=1e-4,1e-3")
    if len(set(texts)) < len(texts):
        raise InputError(f"--grid {axis}: found a value twice, expected each once")
    return key.strip(), texts


def _values(text: str, axis: str) -> list[str]:
    """Return the values that a text stands for: 0..4 is 0, 1, 2, 3 and 4."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST_RUNS:
        raise InputError(f"--grid {axis}: found {text}, expected a range of 1 to {_MOST_RUNS} values, such as 0..4")
    return [str(value) for value in range(first, last + 1)]


def validation_of(config: PrepareConfig) -> dict[str, Any]:
    """Return the keys of section prepare that a fold replaces."""
    return config.model_dump(mode="json", include=set(_VALIDATION))


def read_sweep(name: str, work: Work) -> Sweep:
    """Return a sweep by its name; raise InputError where there is none."""
    path = work.sweeps / name / "sweep.json"
    raw = read_object(path, "start a sweep with `idxtrain sweep`")
    try:
        points = tuple(Point(each["run_id"], tuple(each["settings"]), each["fold"]) for each in raw["points"])
        return Sweep(name=name, work=work, points=points, validation=dict(raw["validation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: found another format, expected that of this version; fix: {_FIX}") from error
