"""The points of a sweep and their results: each point is a run, the best has the highest validation accuracy."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InputError
from jobs.files import read_object, write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done, read_record
from jobs.text_table import text_table

_MOST_POINTS = 1000  # Slurm's default limit of an array


@dataclass(frozen=True)
class Point:
    """One point of the grid. `settings`: assignments as --set takes them."""

    run_id: str
    settings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a point. `accuracy`: on the validation split; without one, `detail` is the reason."""

    point: Point
    accuracy: float | None = None
    steps: int = 0
    images_per_second: float = 0.0
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, `WORK/sweeps/NAME`, and its points."""

    name: str
    work: Work
    points: tuple[Point, ...]

    @property
    def folder(self) -> Path:
        """The folder of scripts, logs and the table."""
        return self.work.sweeps / self.name

    def run(self, point: Point) -> RunDir:
        """Return the run of a point."""
        return RunDir(self.work.runs / point.run_id)

    def write(self) -> None:
        """Write the points to `sweep.json`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.folder / "sweep.json", {point.run_id: list(point.settings) for point in self.points})


def grid_points(name: str, axes: Sequence[str]) -> tuple[Point, ...]:
    """Return all points of a grid; the last axis changes first. `axes`: e.g. "train.learning_rate=1e-4,1e-3"."""
    values: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, text = axis.partition("=")
        texts = [each.strip() for each in text.split(",")]
        if not equals or not key.strip() or not all(texts):
            raise InputError(f"--grid {axis}: expected section.key=VALUE,VALUE,…, e.g. train.learning_rate=1e-4,1e-3")
        if key.strip() in values or len(set(texts)) < len(texts):
            raise InputError(f"--grid {axis}: found a key or value twice, expected each once")
        values[key.strip()] = texts
    points = list(itertools.product(*values.values()))
    if len(points) > _MOST_POINTS:
        raise InputError(
            f"--grid: found {len(points)} points, expected {_MOST_POINTS} or fewer; fix: give fewer values"
        )
    return tuple(
        Point(f"{name}-{number}", tuple(f"{key}={value}" for key, value in zip(values, point, strict=True)))
        for number, point in enumerate(points)
    )


def read_sweep(name: str, work: Work) -> Sweep:
    """Return a sweep by its name; raise InputError where there is none."""
    points = read_object(work.sweeps / name / "sweep.json", "start a sweep with `idxtrain sweep`")
    return Sweep(name, work, tuple(Point(run_id, tuple(settings)) for run_id, settings in points.items()))


def read_results(sweep: Sweep, failures: Mapping[str, str]) -> list[Result]:
    """Return the result of each point. `failures`: why a point's training failed, by run ID."""
    return [_read_result(sweep.run(point), point, failures.get(point.run_id, "")) for point in sweep.points]


def _read_result(run: RunDir, point: Point, failure: str) -> Result:
    if not is_done(run, "train"):
        return Result(point=point, detail=failure or "not trained")
    record = read_record(run, "train")
    outputs: dict[str, Any] = record.outputs
    accuracy = outputs["validation"].get("accuracy")
    return Result(
        point=point,
        accuracy=accuracy,
        steps=int(outputs["steps"]),
        images_per_second=float(outputs["images_per_second"]),
        seconds=record.seconds,
        detail="" if accuracy is not None else "has no validation split",
    )


def best(results: Sequence[Result]) -> Result | None:
    """Return the first result with the highest validation accuracy, or None where no point has an accuracy."""
    trained = [result for result in results if result.accuracy is not None]
    return max(trained, key=lambda result: result.accuracy or 0.0, default=None)


def result_table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines of text, best first; points without an accuracy come last."""
    keys = [setting.partition("=")[0] for setting in results[0].point.settings]
    header = ("run", *keys, "validation", "steps", "images/s", "seconds", "")
    winner = best(results)
    rows = []
    for result in sorted(results, key=lambda r: -1.0 if r.accuracy is None else r.accuracy, reverse=True):
        values = [setting.partition("=")[2] for setting in result.point.settings]
        figures = ("–", "–", "–", "–")
        if result.accuracy is not None:
            speed = f"{result.images_per_second:,.0f}"
            figures = (f"{result.accuracy:.4f}", str(result.steps), speed, f"{result.seconds:.1f}")
        rows.append((result.point.run_id, *values, *figures, "best" if result is winner else result.detail))
    return text_table(header, rows, right=range(1, len(header) - 1))
