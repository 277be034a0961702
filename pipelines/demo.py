"""Load the models of `idxtrain demo`, with what their runs recorded about them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import IdxtrainError
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from pipelines import request
from pipelines.model_choice import chosen_model

if TYPE_CHECKING:
    from jobs.demo.shown import Shown


def shown_models(which: Sequence[str | None], name: str, work: Path) -> "list[Shown]":
    """Return the models, loaded, in this order. `which`, `name`: see `chosen_model`, which raises InputError."""
    return [_shown(each, name, work) for each in which]


def _shown(which: str | None, name: str, work: Path) -> "Shown":
    with chosen_model(which, name=name, work=work) as file:
        # Imported here, as they take seconds: a model that does not exist is reported at once.
        from jobs.demo.gallery import Gallery
        from jobs.demo.network import Network
        from jobs.demo.shown import Shown
        from jobs.predict.classifier import Classifier

        model = Classifier(file, Path(os.devnull)).model
    folder = request.work_dir(request.Options(work=work))
    run = RunDir(folder.runs / file.run_id)
    recipe, accuracy = _recorded(run)
    shown = Shown(
        title=file.title,
        recipe=recipe,
        accuracy=accuracy,
        manifest=file.manifest,
        network=Network(model),
        gallery=Gallery(folder.datasets / file.manifest.dataset_id, file.manifest, run.predictions_file),
    )
    shown.form  # noqa: B018 (measured now, or the first stroke would wait for it)
    return shown


def _recorded(run: RunDir) -> tuple[str, float | None]:
    """Return a run's recipe, and its accuracy if it was tested; "unknown" and None if its folder is gone."""
    recipe: Any = "unknown"
    try:
        recipe = run.read_config().get("recipe", recipe)
        return str(recipe), read_metrics(run).test.accuracy
    except IdxtrainError:
        return str(recipe), None
