"""A sweep: the same recipe at every point of a grid of options, each a run; the best is chosen by validation."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InputError
from jobs.files import read_object, write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done, read_record

_MOST = 1000  # points; Slurm's own default for an array


@dataclass(frozen=True)
class Point:
    """One point of the grid. `settings`: assignments as --set takes them."""

    run_id: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What came of a point; without an accuracy, `note` says why."""

    point: Point
    accuracy: float | None = None
    steps: int = 0
    images_per_second: float = 0.0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, `WORK/sweeps/NAME`, and its points."""

    name: str
    work: Work
    points: tuple[Point, ...]

    @property
    def folder(self) -> Path:
        """Where scripts, logs and the table lie."""
        return self.work.sweeps / self.name

    def run(self, point: Point) -> RunDir:
        """Return a point's run."""
        return RunDir(self.work.runs / point.run_id)

    def write(self) -> None:
        """Write down what the points are."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.folder / "sweep.json", {point.run_id: list(point.settings) for point in self.points})


def grid(name: str, axes: Sequence[str]) -> tuple[Point, ...]:
    """Return all points of a grid, the last axis first to change. `axes`: e.g. "train.learning_rate=1e-4,1e-3"."""
    values: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, texts = axis.partition("=")
        found = [text.strip() for text in texts.split(",")]
        if not equals or not key.strip() or not all(found):
            raise InputError(f"--grid {axis}: expected section.key=VALUE,VALUE,…, e.g. train.learning_rate=1e-4,1e-3")
        if key.strip() in values or len(set(found)) < len(found):
            raise InputError(f"--grid {axis}: found a key or value twice, expected each once")
        values[key.strip()] = found
    points = list(itertools.product(*values.values()))
    if len(points) > _MOST:
        raise InputError(f"--grid: found {len(points)} points, expected {_MOST} or fewer; give fewer values")
    return tuple(
        Point(f"{name}-{number}", tuple(f"{key}={value}" for key, value in zip(values, point, strict=True)))
        for number, point in enumerate(points)
    )


def read(name: str, work: Work) -> Sweep:
    """Return a sweep by its name; raise InputError where there is none."""
    found = read_object(work.sweeps / name / "sweep.json", "`idxtrain sweep` makes a sweep")
    return Sweep(name, work, tuple(Point(run_id, tuple(settings)) for run_id, settings in found.items()))


def results(sweep: Sweep, failures: Mapping[str, str]) -> list[Result]:
    """Return what came of each point. `failures`: why a point's training failed, by run ID."""
    found = []
    for point in sweep.points:
        run = sweep.run(point)
        if not is_done(run, "train"):
            found.append(Result(point, note=failures.get(point.run_id) or "not trained"))
            continue
        record = read_record(run, "train")
        outputs: dict[str, Any] = record.outputs
        accuracy = outputs["validation"].get("accuracy")
        found.append(
            Result(
                point,
                accuracy,
                int(outputs["steps"]),
                float(outputs["images_per_second"]),
                record.seconds,
                "" if accuracy is not None else "has no validation split",
            )
        )
    return found


def best(found: Sequence[Result]) -> Result | None:
    """Return the result with the highest validation accuracy, of equal ones the first; None where there is none."""
    judged = [result for result in found if result.accuracy is not None]
    return max(judged, key=lambda result: result.accuracy or 0.0, default=None)


def table(found: Sequence[Result]) -> list[str]:
    """Return the results as lines, the best first; those without one at the end."""
    keys = [setting.partition("=")[0] for setting in found[0].point.settings]
    header = ("run", *keys, "validation", "steps", "images/s", "seconds", "")
    rows = [header]
    for result in sorted(found, key=lambda r: -1.0 if r.accuracy is None else r.accuracy, reverse=True):
        values = [setting.partition("=")[2] for setting in result.point.settings]
        figures = ("–", "–", "–", "–")
        if result.accuracy is not None:
            speed = f"{result.images_per_second:,.0f}"
            figures = (f"{result.accuracy:.4f}", str(result.steps), speed, f"{result.seconds:.1f}")
        rows.append((result.point.run_id, *values, *figures, "best" if result is best(found) else result.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    return [
        "  ".join(
            [
                *(
                    cell.ljust(width) if column == 0 else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(row, widths, strict=False))
                ),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
