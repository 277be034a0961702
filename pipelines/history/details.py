"""`idxtrain runs show`: one run, from its options to its files."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from jobs.errors import InputError
from jobs.metrics import CalibrationMetrics, Metrics, read_metrics
from jobs.run_dir import RunDir
from jobs.stage import STAGES, dataset_of, read_record
from jobs.text_table import text_table
from jobs.words import counted
from pipelines.config import compose, flat
from pipelines.history.listing import state_text
from pipelines.history.sizes import in_store, size_of, size_text
from pipelines.history.summary import summary_of, with_queue


def lines(run: RunDir) -> Iterator[str]:
    """Yield what is known of a run, as lines of text."""
    summary = summary_of(run)
    if summary is None:
        raise InputError(f"{run.config_file}: found no such file, expected that of a run")
    (summary,) = with_queue([summary])
    yield f"run {run.run_id}: {state_text(summary)}"
    yield f"made {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(summary.made))}"
    config = run.read_config()
    yield f"recipe {summary.recipe}, data {summary.data}, seed {summary.seed}"
    changed = list(own_options(config))
    if changed:
        yield ""
        yield from text_table(("option", f"recipe {config.get('recipe')}", "run"), changed)
    if run.metrics_file.exists():
        yield ""
        yield from result_lines(read_metrics(run))
    yield ""
    yield from text_table(("stage", "seconds"), list(_stages(run)), right=(1,))
    yield ""
    yield from text_table(("file", "size"), list(_files(run)), right=(1,))


def own_options(config: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each option in which the run differs from its recipe. A recipe of another file cannot be compared."""
    with suppress(InputError):
        recipe, own = flat(compose(str(config.get("recipe")), {}).to_json()), flat(config)
        for key in sorted(own.keys() & recipe.keys()):
            if own[key] != recipe[key]:
                yield key, _text(recipe[key]), _text(own[key])


def result_lines(metrics: Metrics) -> Iterator[str]:
    """Yield a run's result: accuracy, validation, training, confidence, caveats."""
    test, validation, train = metrics.test, metrics.validation, metrics.train
    errors, interval = counted(test.errors, "error"), f"{test.ci95[0]:.4f} to {test.ci95[1]:.4f}"
    yield f"test accuracy {test.accuracy:.4f} ({errors} in {test.count:,}), 95 % interval {interval}"
    if validation.accuracy is not None and validation.errors is not None:
        wrong = counted(validation.errors, "error")
        yield f"validation accuracy {validation.accuracy:.4f} ({wrong} in {validation.count:,})"
    speed = f", {train.images_per_second:,.0f} images/s" if train.images_per_second else ""
    ranks = counted(metrics.world_size, "rank")
    yield f"{counted(train.steps, 'update')} on {ranks} in {train.precision}{speed}"
    if metrics.calibration:
        yield from confidence_lines(metrics.calibration)
    for caveat in metrics.caveats:
        yield f"caveat: {caveat.text}"


def confidence_lines(calibration: CalibrationMetrics) -> Iterator[str]:
    """Yield how far the model's confidence can be trusted."""
    after = ""
    if calibration.temperature is not None and calibration.ece_with_temperature is not None:
        after = f"; {calibration.ece_with_temperature:.4f} with temperature {calibration.temperature:.3f}"
    yield f"calibration error {calibration.ece:.4f}{after}"
    sure = calibration.sure
    if sure is not None:
        errors = f"{counted(sure.errors, 'error')} in {sure.count:,}"
        yield f"sure (confidence {sure.confidence:.4f} or more) of {sure.share:.1%} of the test images: {errors}"


def _stages(run: RunDir) -> Iterator[tuple[str, str]]:
    for stage in STAGES:
        try:
            yield stage, f"{read_record(run, stage).seconds:.1f}"
        except InputError:
            yield stage, "–"


def _files(run: RunDir) -> Iterator[tuple[str, str]]:
    """Yield the run's files and folders, then its dataset, which other runs may share."""
    for path in sorted(run.path.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir():
            yield f"{path.name}/", size_text(size_of(path))
        elif not path.name.startswith("."):
            yield path.name, size_text(path.lstat().st_size)
    with suppress(InputError):
        dataset = dataset_of(run)
        elsewhere = in_store(dataset)
        size = f"{size_text(size_of(dataset))}{f'; {elsewhere}' if elsewhere else ''}"
        yield str(dataset), size if dataset.exists() else "removed"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
