"""`idxtrain runs compare`: which options of runs differ, and whether their accuracies do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from jobs.errors import InputError
from jobs.metrics import Metrics, read_metrics
from jobs.records import FetchOutputs
from jobs.run_dir import RunDir
from jobs.stage import read_outputs
from jobs.text_table import text_table
from jobs.words import counted
from pipelines.config import flat
from pipelines.gate.exact_tests import binomial_cdf

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs on the same test images. `only_one`, `only_other`: how many only that run classifies correctly.

    `p`: of McNemar's exact two-sided test, adjusted for `comparisons` of them by Holm's method.
    """

    one: str
    other: str
    only_one: int
    only_other: int
    p: float
    comparisons: int = 1

    @property
    def better(self) -> str | None:
        """The ID of the run that is better; None if the difference may be chance."""
        if self.p > _ALPHA:
            return None
        return self.one if self.only_one > self.only_other else self.other

    def __str__(self) -> str:
        """Return the verdict in a sentence."""
        counts = (
            f"classified correctly by {self.one} alone: {counted(self.only_one, 'image')}, by {self.other} alone: "
            f"{self.only_other:,}"
        )
        verdict = f"{self.better} is better" if self.better else "the difference may be chance"
        adjusted = f", adjusted for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        return f"{counts}; {verdict} (p = {self.p:.2g}, McNemar's exact test{adjusted})"


def lines(runs: Sequence[RunDir]) -> Iterator[str]:
    """Yield the comparison of two or more runs, as lines of text."""
    names = [run.run_id for run in runs]
    yield from text_table(("option", *names), options(runs))
    untested = [run for run in runs if not run.metrics_file.exists()]
    yield ""
    if untested:
        yield from (f"not evaluated: {run.run_id}; fix: {run.tested_by}" for run in untested)
        return
    measured = [read_metrics(run) for run in runs]
    yield from text_table(("result", *names), results(measured), right=range(1, len(runs) + 1))
    yield ""
    problem = why_not_comparable(runs, measured)
    if problem:
        yield problem
    else:
        yield from map(str, pairs({run.run_id: correct(run)[1] for run in runs}))


def options(runs: Sequence[RunDir]) -> list[tuple[str, ...]]:
    """Return the options that differ between runs: a key and each run's value."""
    configs = [flat(run.read_config()) for run in runs]
    keys = sorted(set().union(*configs))
    return [
        (key, *(_text(config, key) for config in configs))
        for key in keys
        if any(config.get(key) != configs[0].get(key) for config in configs)
    ]


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return "none" if value is None else str(value)


def results(measured: Sequence[Metrics]) -> list[tuple[str, ...]]:
    """Return the figures of runs side by side: a name and each run's value."""

    def row(name: str, form: str, *values: float | None) -> tuple[str, ...]:
        return (name, *("–" if value is None else format(value, form) for value in values))

    return [
        row("test accuracy", ".4f", *(each.test.accuracy for each in measured)),
        row("test errors", ",", *(each.test.errors for each in measured)),
        row("test images", ",", *(each.test.count for each in measured)),
        row("test loss", ".4f", *(each.test.loss for each in measured)),
        row("validation accuracy", ".4f", *(each.validation.accuracy for each in measured)),
        row("updates", ",", *(each.train.steps for each in measured)),
        row("images trained on", ",", *(each.train.images for each in measured)),
        row("images/s", ",.0f", *(each.train.images_per_second for each in measured)),
        row("seconds", ",.1f", *(each.seconds.total for each in measured)),
    ]


def why_not_comparable(runs: Sequence[RunDir], measured: Sequence[Metrics]) -> str:
    """Return why the accuracies are not of the same test images; an empty text if they are."""
    first = _test_archives(runs[0])
    for run, metrics in zip(runs[1:], measured[1:], strict=True):
        if metrics.dataset_id != measured[0].dataset_id and (first is None or _test_archives(run) != first):
            return f"not comparable: {runs[0].run_id} and {run.run_id} were evaluated on different test images"
    images = predicted(runs[0], ("index",))["index"]
    left_out = [run.run_id for run in runs[1:] if not _equal(predicted(run, ("index",))["index"], images)]
    if left_out:
        return f"not comparable: {runs[0].run_id} or {left_out[0]} left out some of the test images"
    return ""


def _equal(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    return len(one) == len(other) and bool((one == other).all())


def _test_archives(run: RunDir) -> tuple[str, ...] | None:
    """Return the SHA-256 of a run's test archives; None if its test images are part of its training archive."""
    archives = read_outputs(run, FetchOutputs).archives
    if "test_images" not in archives or "test_labels" not in archives:
        return None
    return archives["test_images"].sha256, archives["test_labels"].sha256


def pairs(correct_of: "Mapping[str, NDArray[Any]]") -> list[Pair]:
    """Return each pair of runs, by whether they classify each test image correctly: by run ID, bool [images].

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): the
    probability of any false verdict is at most 5 %, however many runs there are.
    """
    found = []
    for (one, left), (other, right) in combinations(correct_of.items(), 2):
        only_left, only_right = int((left & ~right).sum()), int((right & ~left).sum())
        found.append((one, other, only_left, only_right, two_sided(only_left, only_right)))
    adjusted = holm([p for *_, p in found])
    return [
        Pair(one=one, other=other, only_one=left, only_other=right, p=p, comparisons=len(found))
        for (one, other, left, right, _), p in zip(found, adjusted, strict=True)
    ]


def two_sided(only_one: int, only_other: int) -> float:
    """Return the p-value of McNemar's exact two-sided test: see `pipelines.gate.exact_tests`."""
    return min(1.0, 2 * binomial_cdf(min(only_one, only_other), only_one + only_other, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, in the same order."""
    adjusted, largest = list(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def correct(run: RunDir) -> "tuple[NDArray[Any], NDArray[Any]]":
    """Return the test images of a run, each by its row in the archive, and whether its model classifies them correctly.

    int64 and bool [images], sorted by row: 9 bytes an image.
    """
    columns = predicted(run, ("index", "label", "predicted"))
    return columns["index"], columns["label"] == columns["predicted"]


def predicted(run: RunDir, names: Sequence[str]) -> "dict[str, NDArray[Any]]":
    """Return these columns of a run's predictions, sorted by `index`, which is the first of them.

    Takes at most 60 bytes an image. Raises InputError where they cannot be read.
    """
    import numpy as np

    from jobs.evaluate.predictions import read_predictions

    path = run.predictions_file
    try:
        table = read_predictions(path, names)
        columns = {name: table[name].to_numpy() for name in names}
    except (OSError, ValueError, KeyError) as error:
        again = f"`idxtrain evaluate --run-id {run.selector}`"
        raise InputError(
            f"{path}: cannot be read ({error}); fix: remove metrics.json beside it, then {again}"
        ) from error
    indices = columns[names[0]]
    if (indices[1:] > indices[:-1]).all():
        return columns
    order = np.argsort(indices, kind="stable")
    return {name: column[order] for name, column in columns.items()}
