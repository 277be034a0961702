"""The results of a sweep: the best point has the highest accuracy on validation, or mean over seeds and folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from jobs.run_dir import RunDir
from jobs.stage import is_done, read_record
from jobs.text_table import text_table
from pipelines.sweep.grid import Point, Sweep

BEST = "best by validation: "  # begins the line that a finished sweep prints of its best point


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a point of the grid. `points`: its trainings, one or one per seed and fold.

    `accuracy`: on the validation split, the mean over the trainings; without one, `detail` is the reason. `std`: their
    sample standard deviation. `images_per_second`: the mean. `seconds`: of all trainings.
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
    def settings(self) -> tuple[str, ...]:
        """The settings that all trainings share: without the seed if there are several."""
        return tuple(each for each in self.point.settings if all(each in other.settings for other in self.points))

    @property
    def about(self) -> str:
        """All settings in words: the seeds come last."""
        seeds = [each for point in self.points for each in point.settings if each not in self.settings]
        values = ",".join(dict.fromkeys(each.partition("=")[2] for each in seeds))
        return ", ".join((*self.settings, f"seed={values}") if seeds else self.settings)

    @property
    def runs(self) -> str:
        """The run IDs: of the first and the last of several trainings."""
        first, last = self.points[0].run_id, self.points[-1].run_id
        return first if len(self.points) == 1 else f"{first} to {last}"


def read_results(sweep: Sweep, failures: Mapping[str, str]) -> list[Result]:
    """Return the result of each point of the grid. `failures`: why a training failed, by run ID."""
    results = [_read_result(sweep.run(point), point, failures.get(point.run_id, "")) for point in sweep.points]
    return [combined(list(each)) for _, each in groupby(results, key=lambda result: result.point.setting)]


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


def combined(trainings: Sequence[Result]) -> Result:
    """Return the result of a point from those of its trainings. It has an accuracy only if each of them has one."""
    if len(trainings) == 1:
        return trainings[0]
    points = tuple(each.point for each in trainings)
    accuracies = [each.accuracy for each in trainings if each.accuracy is not None]
    if len(accuracies) < len(trainings):
        lacking = next(each for each in trainings if each.accuracy is None)
        return Result(points=points, detail=f"{lacking.point.run_id}: {lacking.detail}")
    return Result(
        points=points,
        accuracy=fmean(accuracies),
        std=stdev(accuracies),
        steps=max(each.steps for each in trainings),
        images_per_second=fmean(each.images_per_second for each in trainings),
        seconds=sum(each.seconds for each in trainings),
    )


def best(results: Sequence[Result]) -> Result | None:
    """Return the first result with the highest validation accuracy, or None where no point has an accuracy."""
    trained = [result for result in results if result.accuracy is not None]
    return max(trained, key=lambda result: result.accuracy or 0.0, default=None)


def result_table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines of text, best first; points without an accuracy come last."""
    keys = [setting.partition("=")[0] for setting in results[0].settings]
    has_several = len(results[0].points) > 1
    header = ("runs" if has_several else "run", *keys, "validation", "steps", "images/s", "seconds", "")
    winner = best(results)
    rows = []
    for result in sorted(results, key=lambda r: -1.0 if r.accuracy is None else r.accuracy, reverse=True):
        values = [setting.partition("=")[2] for setting in result.settings]
        figures = ("–", "–", "–", "–")
        if result.accuracy is not None:
            accuracy = f"{result.accuracy:.4f}" + ("" if result.std is None else f" ± {result.std:.4f}")
            figures = (accuracy, str(result.steps), f"{result.images_per_second:,.0f}", f"{result.seconds:.1f}")
        rows.append((result.runs, *values, *figures, "best" if result is winner else result.detail))
    return text_table(header, rows, right=range(1, len(header) - 1))
