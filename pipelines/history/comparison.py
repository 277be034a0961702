"""`idxtrain runs compare`: which options of two runs differ, and whether their accuracies do."""

from collections.abc import Iterator, Sequence
from typing import Any

from jobs.errors import InputError
from jobs.metrics import Metrics, read_metrics
from jobs.records import FetchOutputs
from jobs.run_dir import RunDir
from jobs.stage import read_outputs
from jobs.text_table import text_table
from jobs.words import counted
from pipelines.config import flat
from pipelines.gate.exact_tests import binomial_cdf

_ALPHA = 0.05


def lines(one: RunDir, other: RunDir) -> Iterator[str]:
    """Yield the comparison of two runs, as lines of text."""
    yield from text_table(("option", one.run_id, other.run_id), _options(one, other))
    measured = [read_metrics(run) if run.metrics_file.exists() else None for run in (one, other)]
    if measured[0] is None or measured[1] is None:
        untested = ", ".join(run.run_id for run, metrics in zip((one, other), measured, strict=True) if not metrics)
        yield ""
        yield f"not evaluated: {untested}; fix: `idxtrain evaluate --run-id RUN`"
        return
    yield ""
    yield from text_table(("result", one.run_id, other.run_id), _results(measured[0], measured[1]), right=(1, 2))
    yield ""
    problem = _why_not_comparable(one, other, measured[0], measured[1])
    yield problem or _verdict(one, other)


def _options(one: RunDir, other: RunDir) -> list[tuple[str, str, str]]:
    left, right = flat(one.read_config()), flat(other.read_config())
    keys = sorted(left.keys() | right.keys())
    return [(key, _text(left, key), _text(right, key)) for key in keys if left.get(key) != right.get(key)]


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return "none" if value is None else str(value)


def _results(one: Metrics, other: Metrics) -> list[tuple[str, str, str]]:
    def row(name: str, form: str, left: float | None, right: float | None) -> tuple[str, str, str]:
        cells = ["–" if value is None else format(value, form) for value in (left, right)]
        return name, cells[0], cells[1]

    return [
        row("test accuracy", ".4f", one.test.accuracy, other.test.accuracy),
        row("test errors", ",", one.test.errors, other.test.errors),
        row("test images", ",", one.test.count, other.test.count),
        row("test loss", ".4f", one.test.loss, other.test.loss),
        row("validation accuracy", ".4f", one.validation.accuracy, other.validation.accuracy),
        row("updates", ",", one.train.steps, other.train.steps),
        row("images trained on", ",", one.train.images, other.train.images),
        row("images/s", ",.0f", one.train.images_per_second, other.train.images_per_second),
        row("seconds", ",.1f", one.seconds.total, other.seconds.total),
    ]


def _why_not_comparable(one: RunDir, other: RunDir, left: Metrics, right: Metrics) -> str:
    """Return why the accuracies are not of the same test images; an empty text if they are."""
    if left.dataset_id == right.dataset_id or _test_archives(one) == _test_archives(other) is not None:
        return ""
    return "not comparable: the two runs were evaluated on different test images"


def _test_archives(run: RunDir) -> tuple[str, ...] | None:
    """Return the SHA-256 of a run's test archives; None if its test images are part of its training archive."""
    archives = read_outputs(run, FetchOutputs).archives
    if "test_images" not in archives or "test_labels" not in archives:
        return None
    return archives["test_images"].sha256, archives["test_labels"].sha256


def _verdict(one: RunDir, other: RunDir) -> str:
    """Return whether one run is better, by the images that only one of them classifies correctly."""
    left, right = _correct(one), _correct(other)
    if left.keys() != right.keys():
        return "not comparable: one of the two runs left out some of the test images"
    only_left = sum(left[index] and not right[index] for index in left)
    only_right = sum(right[index] and not left[index] for index in left)
    return verdict(one.run_id, other.run_id, only_left, only_right)


def verdict(one: str, other: str, only_one: int, only_other: int) -> str:
    """Return in a sentence whether one of two runs is better on the same images.

    `only_one`, `only_other`: how many images only that run classifies correctly. Exact two-sided test: see
    `pipelines.gate.exact_tests`.
    """
    p = min(1.0, 2 * binomial_cdf(min(only_one, only_other), only_one + only_other, 0.5))
    counts = f"classified correctly by {one} alone: {counted(only_one, 'image')}, by {other} alone: {only_other:,}"
    if p > _ALPHA:
        return f"{counts}; the difference may be chance (p = {p:.2g}, McNemar's exact test)"
    return f"{counts}; {one if only_one > only_other else other} is better (p = {p:.2g}, McNemar's exact test)"


def _correct(run: RunDir) -> dict[int, bool]:
    """Return whether a run's model classifies each test image correctly, by the image's row in the archive."""
    from jobs.evaluate.predictions import read_predictions

    path = run.predictions_file
    try:
        columns = read_predictions(path, ["index", "label", "predicted"]).to_pydict()
    except (OSError, ValueError) as error:
        again = f"`idxtrain evaluate --run-id {run.selector}`"
        raise InputError(
            f"{path}: cannot be read ({error}); fix: remove metrics.json beside it, then {again}"
        ) from error
    pairs: Sequence[tuple[int, int, int]] = list(zip(*columns.values(), strict=True))
    return {index: label == predicted for index, label, predicted in pairs}
