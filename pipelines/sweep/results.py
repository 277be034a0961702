"""The results of a sweep. The best point has the highest accuracy on validation; with folds, the highest mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from jobs.run_dir import RunDir
from jobs.stage import is_done, read_record
from jobs.text_table import text_table
from pipelines.sweep.grid import Point, Sweep


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a point of the grid. `points`: its trainings, one or one per fold.

    `accuracy`: on the validation split, the mean over the folds; without one, `detail` is the reason. `std`: the
    sample standard deviation over the folds. `images_per_second`: the mean. `seconds`: of all trainings.
    """

    points: tuple[Point, ...]
    accuracy: float | None = None
    std: float | None = None
    steps: int = 0
    images_per_second: float = 0.0
    seconds: float = 0.0
    detail: str = ""

    @property
    def point(self) -> Point:
        """The first training, or the only one."""
        return self.points[0]

    @property
    def runs(self) -> str:
        """The run IDs: of the first and the last of several trainings."""
        first, last = self.points[0].run_id, self.points[-1].run_id
        return first if len(self.points) == 1 else f"{first} to {last}"


def read_results(sweep: Sweep, failures: Mapping[str, str]) -> list[Result]:
    """Return the result of each point of the grid. `failures`: why a training failed, by run ID."""
    results = [_read_result(sweep.run(point), point, failures.get(point.run_id, "")) for point in sweep.points]
    return [combined(list(folds)) for _, folds in groupby(results, key=lambda result: result.point.settings)]


def _read_result(run: RunDir, point: Point, failure: str) -> Result:
    if not is_done(run, "train"):
        return Result(points=(point,), detail=failure or "not trained")
    record = read_record(run, "train")
    outputs: dict[str, Any] = record.outputs
    accuracy = outputs["validation"].get("accuracy")
    return Result(
        points=(point,),
        accuracy=accuracy,
        steps=int(outputs["steps"]),
        images_per_second=float(outputs["images_per_second"]),
        seconds=record.seconds,
        detail="" if accuracy is not None else "has no validation split",
    )


def combined(folds: Sequence[Result]) -> Result:
    """Return the result of a point from those of its folds. It has an accuracy only if each fold has one."""
    if len(folds) == 1:
        return folds[0]
    points = tuple(fold.point for fold in folds)
    accuracies = [fold.accuracy for fold in folds if fold.accuracy is not None]
    if len(accuracies) < len(folds):
        lacking = next(fold for fold in folds if fold.accuracy is None)
        return Result(points=points, detail=f"{lacking.point.run_id}: {lacking.detail}")
    return Result(
        points=points,
        accuracy=fmean(accuracies),
        std=stdev(accuracies),
        steps=max(fold.steps for fold in folds),
        images_per_second=fmean(fold.images_per_second for fold in folds),
        seconds=sum(fold.seconds for fold in folds),
    )


def best(results: Sequence[Result]) -> Result | None:
    """Return the first result with the highest validation accuracy, or None where no point has an accuracy."""
    trained = [result for result in results if result.accuracy is not None]
    return max(trained, key=lambda result: result.accuracy or 0.0, default=None)


def result_table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines of text, best first; points without an accuracy come last."""
    keys = [setting.partition("=")[0] for setting in results[0].point.settings]
    has_folds = len(results[0].points) > 1
    header = ("runs" if has_folds else "run", *keys, "validation", "steps", "images/s", "seconds", "")
    winner = best(results)
    rows = []
    for result in sorted(results, key=lambda r: -1.0 if r.accuracy is None else r.accuracy, reverse=True):
        values = [setting.partition("=")[2] for setting in result.point.settings]
        figures = ("–", "–", "–", "–")
        if result.accuracy is not None:
            accuracy = f"{result.accuracy:.4f}" + ("" if result.std is None else f" ± {result.std:.4f}")
            figures = (accuracy, str(result.steps), f"{result.images_per_second:,.0f}", f"{result.seconds:.1f}")
        rows.append((result.runs, *values, *figures, "best" if result is winner else result.detail))
    return text_table(header, rows, right=range(1, len(header) - 1))
