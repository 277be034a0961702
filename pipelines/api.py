"""The pipeline from Python, as a notebook uses it.

    from pipelines.api import load_config, load_run, run

    config = load_config("fast", data="letters", settings={"train.epochs": 5})
    trained = run(config)
    trained.metrics.test.accuracy
    trained.predictions().query("label != predicted")
    trained.evaluate("other-letters").metrics.test.accuracy
    trained.predict(images)

`run` does what `idxtrain run` does: each stage is a process of its own. Progress goes to stderr, nothing to stdout.
Errors are exceptions of `jobs.errors`: bad input is an InputError, and a request to stop (Ctrl-C, or a notebook's stop
button) a ResumableError, after which `run` with the same `run_id` resumes the run. Nothing heavy is imported before it
is needed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.metrics import Metrics, read_metrics
from jobs.run_dir import RunDir
from pipelines import request, runs
from pipelines.config import DEFAULT_RECIPE, Config
from pipelines.evaluation import config_of_evaluation, evaluate_elsewhere
from pipelines.model_choice import model_of_run
from pipelines.names import WORK
from pipelines.stages import run_stages

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from jobs.orientation import Orientation
    from jobs.predict.classifier import Classifier


@dataclass(frozen=True)
class Run:
    """A finished run. `directory`: its folder, and every path in it."""

    directory: RunDir

    @property
    def run_id(self) -> str:
        """The run's ID."""
        return self.directory.run_id

    @property
    def config(self) -> Config:
        """The config that the run was made with."""
        return runs.read_config(self.directory)

    @property
    def metrics(self) -> Metrics:
        """The content of metrics.json."""
        return read_metrics(self.directory)

    def predictions(self) -> "pd.DataFrame":
        """Return a row per test image: `index`, `label`, `predicted`, `probability` and, if kept, `probabilities`.

        Labels are those of the archives. See `jobs.evaluate.predictions`.
        """
        from jobs.evaluate.predictions import read_predictions

        return read_predictions(self.directory.predictions_file).to_pandas(use_threads=False)

    def predict(
        self, images: "NDArray[Any]", *, top: int = 1, orientation: "Orientation | None" = None
    ) -> "pd.DataFrame":
        """Return a row per image: `label` (as in the archives), `name` and `probability` of the most probable class.

        `images`: [n, height, width], with channels last, or [n, values]. Integers are as archives store them, in value
        and orientation. Floating-point numbers are upright, in [0, 1]. `top`: classes per image; those of the second
        are `label_2` and so on. `orientation`: what turns integers upright, None for that of the training archives.
        Raises InputError for other shapes, types and values.
        """
        from jobs.predict.rows import schema, to_rows

        manifest = self._classifier.manifest
        if not 1 <= top <= manifest.classes:
            raise InputError(f"top: found {top}, expected 1 to {manifest.classes} classes; fix: ask for fewer")
        probabilities = self.probabilities(images, orientation=orientation)
        rows = to_rows(range(len(probabilities)), probabilities, manifest, schema("row", top))
        return rows.to_pandas(use_threads=False).drop(columns="row")

    def probabilities(self, images: "NDArray[Any]", *, orientation: "Orientation | None" = None) -> "NDArray[Any]":
        """Return the probability of each class, float32 [n, classes], for images as `predict` takes them."""
        import numpy

        from jobs.predict.predict import predict_array

        return predict_array(self._classifier, numpy.asarray(images), orientation)

    @cached_property
    def _classifier(self) -> "Classifier":
        from jobs.predict.classifier import Classifier

        return Classifier(model_of_run(self.directory.origin), Path(os.devnull))

    def evaluate(self, data: str | Path) -> "Run":
        """Evaluate the model on the test pair in another folder; return the evaluation. See `pipelines.evaluation`.

        Raises what `run` raises.
        """
        options = request.Options(data=Path(data))
        with _reported_errors():
            return Run(evaluate_elsewhere(self.directory, config_of_evaluation(options, self.directory)))


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Turn the error that a stage has printed into an exception that says what it was."""
    try:
        yield
    except ReportedError as error:
        kinds = {kind.exit_code: kind for kind in (InputError, ResumableError)}
        raise kinds.get(error.exit_code, IdxtrainError)(str(error)) from None


def load_config(
    recipe: str = DEFAULT_RECIPE,
    *,
    data: str | Path | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    np: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config that a recipe and the options of `idxtrain run` make.

    `settings`: config keys with their values, as `--set` takes them, e.g. {"train.epochs": 5}. Raises InputError.
    """
    options = request.Options(
        recipe=recipe,
        data=None if data is None else Path(data),
        dataset=dataset,
        seed=seed,
        np=np,
        assignments=tuple(f"{key}={_as_toml(value)}" for key, value in (settings or {}).items()),
    )
    return request.config_of(options, None)


def _as_toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_as_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def run(config: Config, *, work: str | Path = WORK, run_id: str | None = None) -> Run:
    """Run all stages that are not finished yet, and return the run.

    `run_id`: of a run to resume, or of a new one; by default it is a new one. Raises InputError for bad input,
    ResumableError where the run was stopped on request, and IdxtrainError for another failure.
    """
    options = request.Options(work=Path(work), run_id=run_id)
    existing = request.find_run(options)
    if existing is None:
        request.check_archives(config)
    with _reported_errors(), request.opened_run(options, existing, config) as directory:
        run_stages(directory, config)
    return Run(directory)


def load_run(run_id: str | None = None, *, work: str | Path = WORK) -> Run:
    """Return a run by its ID, by default the latest one. Raises InputError if there is none."""
    return Run(request.existing_run(request.Options(work=Path(work), run_id=run_id)))
