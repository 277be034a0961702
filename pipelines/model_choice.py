"""Which trained model a command uses: a run's, or a registered one such as `@champion`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.dataset import read_manifest
from jobs.predict.model_file import ModelFile
from jobs.records import TrainOutputs
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, read_outputs
from pipelines import request
from pipelines.names import WORK


@contextmanager
def chosen_model(which: str | None, *, name: str = "mnist", work: Path = WORK) -> Iterator[ModelFile]:
    """Yield the model that `which` names; its file may be gone afterwards.

    `which`: a run ID, `@` and a version, alias or run ID of the registered model `name`, or None for the latest run
    that was trained. Raises InputError where there is none, RegistryDownError if the registry does not answer.
    """
    if which is not None and which.startswith("@"):
        with _registered(which.removeprefix("@"), name, work) as file:
            yield file
    else:
        yield _of_run(request.trained_run(request.Options(work=work, run_id=which)))


def _of_run(run: RunDir) -> ModelFile:
    return ModelFile(
        title=f"run {run.run_id}",
        path=run.model_file,
        sha256=read_outputs(run, TrainOutputs).model_sha256,
        manifest=read_manifest(dataset_of(run)),
        run_id=run.run_id,
    )


@contextmanager
def _registered(which: str, name: str, work: Path) -> Iterator[ModelFile]:
    from deploy.registry.registry import Registry
    from deploy.registry.tracking import scratch
    from pipelines.retraining.retrain_dir import RetrainDir, require_name, require_registry

    require_name(name)
    folder = RetrainDir(request.work_dir(request.Options(work=work)), name)
    require_registry(folder, os.environ, changes=False)
    registry = Registry(folder.work, name, os.environ)
    version = registry.find(which)
    with scratch(folder.work) as temporary:
        yield ModelFile(
            title=f"{name} version {version.number}",
            path=registry.model_file(version, temporary),
            sha256=version.model_sha256,
            manifest=registry.manifest(version),
            run_id=version.run_id,
        )
