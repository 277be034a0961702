"""The model registry: MLflow's, in a file of the work directory or on the server that MLFLOW_TRACKING_URI names.

The only mlflow import. Only the pipeline's process comes here, never a rank. MLflow keeps runs, and models with
numbered versions; the aliases `champion`, `challenger` and `previous` each name one version, and setting one is a
single transaction of its database: a reader sees the old version or the new. https://mlflow.org/docs/latest/ml/model-registry/
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from deploy.registry.tracking import (
    CALM,
    SAFE,
    RegistryDownError,
    naming_registry,
    require_answer,
    scratch,
    sqlite_uri,
    tracking_uri,
)
from deploy.registry.versions import ALIASES, Entry, Version, without_password
from jobs.errors import IdxtrainError, InputError
from jobs.files import sha256_file, write_atomic
from jobs.lease import Lease
from jobs.model_file.load import load_keras
from jobs.run_dir import Work

_RUN, _MODEL_SHA, _ACCURACY = "idxtrain.run_id", "idxtrain.model_sha256", "idxtrain.test_accuracy"
_MODEL = "model"  # the folder of an MLflow run's artifacts
_KERAS_FILE = "data/model.keras"  # within an MLflow model of the tensorflow flavour
_DATA_FILE = "training-data.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_POINTS = 1000  # of one call of MLflow's
_MOST_CHARACTERS = 500  # of a parameter's value

log = logging.getLogger("idxtrain")


class Registry:
    """One registered model: `name`, in the registry of a work directory."""

    def __init__(self, work: Work, name: str, environment: Mapping[str, str]) -> None:
        """Connect; raise RegistryDownError where nothing answers."""
        self.name, self.uri, self._work = name, tracking_uri(work, environment), work
        for key, value in CALM.items():
            os.environ.setdefault(key, value)
        os.environ.update(SAFE)
        with naming_registry(self.uri):
            require_answer(self.uri)
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            if self.is_local:
                _make_database(work)
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri)
            if not self.is_local:
                self._aliases()  # what answers HTTP need not be a registry

    @property
    def is_local(self) -> bool:
        """Whether it is the work directory's own."""
        return self.uri == tracking_uri(self._work, {})

    @property
    def shown_uri(self) -> str:
        """The address as it may be printed: without a password."""
        return without_password(self.uri)

    # --- reading

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""
        with naming_registry(self.uri):
            aliases = self._aliases()
            found: list[Any] = []
            token: str | None = None
            while token is None or token:
                page = self._client.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
                found += page
                token = page.token or ""
        versions = [_version(each, aliases) for each in found]
        return sorted(versions, key=lambda version: version.number, reverse=True)

    def _aliases(self) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            return {alias: int(n) for alias, n in self._client.get_registered_model(self.name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def by_alias(self, alias: str) -> Version | None:
        """Return the version an alias names, or None."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def find(self, which: str) -> Version:
        """Return a version by its number, alias or run; raise InputError where there is none."""
        versions = self.versions()
        for version in versions:
            if which in (str(version.number), f"v{version.number}", version.run_id, *version.aliases):
                return version
        known = ", ".join(str(version.number) for version in versions) or "none"
        raise InputError(f"{self.name}: found no version, alias or run {which!r}, expected one of: {known}")

    def model_file(self, version: Version, folder: Path) -> Path:
        """Return the Keras file of a version, downloaded into `folder`; raise IdxtrainError where it is not whole."""
        if not version.model_sha256:
            raise IdxtrainError(f"{self.name} version {version.number}: found no SHA-256; promote another version")
        target = folder / f"{version.model_sha256[:16]}.keras"
        if not (target.exists() and sha256_file(target) == version.model_sha256):
            with self._artifact(version, f"{_MODEL}/{_KERAS_FILE}") as found:
                folder.mkdir(parents=True, exist_ok=True)

                def copy(temporary: Path) -> None:
                    shutil.copyfile(found, temporary)

                write_atomic(target, copy)
        digest = sha256_file(target)
        if digest != version.model_sha256:
            target.unlink()
            raise IdxtrainError(
                f"{self.name} version {version.number}: found a model of SHA-256 {digest[:12]}…, expected "
                f"{version.model_sha256[:12]}…; promote another version"
            )
        return target

    def training_data(self, version: Version) -> dict[str, Any]:
        """Return the facts of the training data that `register` was given."""
        with self._artifact(version, _DATA_FILE) as found:
            return dict(json.loads(found.read_text(encoding="utf-8")))

    def details(self, version: Version) -> dict[str, Any]:
        """Return all parameters and metrics of a version: {"parameters": …, "metrics": …}."""
        with naming_registry(self.uri):
            run = self._client.get_run(self._run_of(version))
        return {"parameters": dict(run.data.params), "metrics": dict(run.data.metrics)}

    @contextmanager
    def _artifact(self, version: Version, path: str) -> Iterator[Path]:
        with scratch(self._work) as folder, naming_registry(self.uri):
            yield Path(self._client.download_artifacts(self._run_of(version), path, str(folder)))

    def _run_of(self, version: Version) -> str:
        return str(self._client.get_model_version(self.name, str(version.number)).run_id)

    def predict(self, version: Version, images: Any) -> Any:
        """Return the probabilities of a version's Keras file for images float32 [n, height, width, channels].

        Raises IdxtrainError where it is not the file that was registered. MLflow's own loader is never used: it reads
        whatever lies beside that file, pickles too.
        """
        with scratch(self._work) as folder:
            file = self.model_file(version, folder)
            _import_quietly(self._work)
            model = load_keras(file, "promote another version", version.model_sha256)
        return model.predict(images, verbose=0)

    # --- writing

    def register(self, entry: Entry) -> Version:
        """Make a version of a run, once: return the one that is there, if it is. The version appears when all its
        files lie there; what an interrupted attempt left is removed.
        """
        there = self._registered(entry)
        if there:
            return there
        with naming_registry(self.uri):
            experiment = self._experiment()
            self._remove_runs(experiment, entry.run_id)
            run = self._client.create_run(
                experiment,
                run_name=entry.run_id,
                tags={_RUN: entry.run_id, **{f"idxtrain.{key}": value for key, value in entry.code.items()}},
            )
            mlflow_id = run.info.run_id
            self._log(mlflow_id, entry)
            _import_quietly(self._work)
            with scratch(self._work) as folder:
                model = folder / _MODEL
                _write_model(entry, model)
                self._client.log_artifacts(mlflow_id, str(model), _MODEL)
            self._client.set_terminated(mlflow_id)
            self._require_model()
            made = self._client.create_model_version(
                self.name,
                f"{run.info.artifact_uri}/{_MODEL}",
                mlflow_id,
                tags={
                    _RUN: entry.run_id,
                    _MODEL_SHA: entry.model_sha256,
                    _ACCURACY: str(entry.metrics.get("test_accuracy", "")),
                },
            )
            return _version(made, {})

    def _registered(self, entry: Entry) -> Version | None:
        """Return the version that holds this very model, or None. Anybody who may write to the registry can give a
        version of his own the ID of a run of ours.
        """
        for version in self.versions():
            if version.run_id == entry.run_id:
                if version.model_sha256 == entry.model_sha256 and self._is_whole(version):
                    return version
                log.warning("%s: version %d is not the model of run %s", self.name, version.number, entry.run_id)
        return None

    def _is_whole(self, version: Version) -> bool:
        with scratch(self._work) as folder:
            try:
                self.model_file(version, folder)
                with naming_registry(self.uri):
                    run = self._client.get_run(self._run_of(version))
                    # What MLflow's users load need not be the run's file.
                    source = self._client.get_model_version(self.name, str(version.number)).source
                return str(source) == f"{run.info.artifact_uri}/{_MODEL}"
            except RegistryDownError as error:
                if getattr(error.__cause__, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
            except IdxtrainError:
                return False

    def _log(self, mlflow_id: str, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        now = int(time.time() * 1000)
        params = [Param(key, value[:_MOST_CHARACTERS]) for key, value in entry.parameters.items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(mlflow_id, params=params[start : start + 100])
        points = [Metric(key, value, now, 0) for key, value in entry.metrics.items()]
        points += [Metric(key, value, now, step) for key, value, step in entry.curve]
        for start in range(0, len(points), _MOST_POINTS):
            self._client.log_batch(mlflow_id, metrics=points[start : start + _MOST_POINTS])
        source = json.dumps({"dataset_id": entry.dataset_id})
        dataset = Dataset(entry.dataset_id, entry.dataset_id, "idxtrain", source, profile=json.dumps(dict(entry.data)))
        self._client.log_inputs(mlflow_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self._client.log_dict(mlflow_id, dict(entry.data), _DATA_FILE)
        for file in entry.files:
            if file.exists():
                self._client.log_artifact(mlflow_id, str(file))

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        where = (self._work.registry / "artifacts" / self.name).as_uri() if self.is_local else None
        return str(self._client.create_experiment(self.name, artifact_location=where))

    def _require_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def orphans(self, mine: frozenset[str] = frozenset(), keep: frozenset[str] = frozenset()) -> list[str]:
        """Return our IDs of MLflow's runs of ours that have no version, as interrupted attempts leave them.

        `keep`: run IDs that are none. `mine`: where a server keeps the registry, only these are: others may be about to
        register one of theirs.
        """
        registered = {version.run_id for version in self.versions()}
        with naming_registry(self.uri):
            found = self._client.get_experiment_by_name(self.name)
            if found is None:
                return []
            runs = self._runs(found.experiment_id, f"tags.`{_RUN}` != ''")
            ids = {str(run.data.tags[_RUN]) for run in runs} - registered - keep
            return sorted(ids if self.is_local else ids & mine)

    def remove_registration(self, run_id: str) -> None:
        """Remove MLflow's runs of one of our runs: see `orphans`."""
        with naming_registry(self.uri):
            self._remove_runs(self._experiment(), run_id)

    def _runs(self, experiment: str, query: str) -> list[Any]:
        return list(self._client.search_runs([experiment], query, max_results=1000))

    def _remove_runs(self, experiment: str, run_id: str) -> None:
        for run in self._runs(experiment, f"tags.`{_RUN}` = '{run_id}'"):
            self._client.delete_run(run.info.run_id)
            place = urlsplit(run.info.artifact_uri)
            if self.is_local and place.scheme in ("", "file"):
                shutil.rmtree(Path(url2pathname(place.path)).parent, ignore_errors=True)

    def set_alias(self, alias: str, number: int) -> None:
        """Let an alias name a version, in one transaction."""
        with naming_registry(self.uri):
            self._client.set_registered_model_alias(self.name, alias, str(number))

    def drop_alias(self, alias: str) -> None:
        """Let an alias name nothing."""
        with naming_registry(self.uri):
            self._client.delete_registered_model_alias(self.name, alias)

    def note(self, version: Version, key: str, value: str) -> None:
        """Write a tag to a version, e.g. what the gate decided."""
        with naming_registry(self.uri):
            self._client.set_model_version_tag(
                self.name, str(version.number), f"idxtrain.{key}", value[:_MOST_CHARACTERS]
            )

    def delete(self, version: Version) -> None:
        """Delete a version, its MLflow run and, in the work directory's own registry, its files."""
        with naming_registry(self.uri):
            experiment = self._experiment()
            self._client.delete_model_version(self.name, str(version.number))
            self._remove_runs(experiment, version.run_id)

    def attach(self, version: Version, *files: Path) -> None:
        """Add files to a version's MLflow run: what came after it was registered."""
        with naming_registry(self.uri):
            for file in files:
                self._client.log_artifact(self._run_of(version), str(file))


def _make_database(work: Work) -> None:
    """Make the SQLite file whole: MLflow makes its tables in many steps, and a kill would leave some of them."""
    database = work.registry / "mlflow.db"
    if database.exists():
        return
    work.registry.mkdir(mode=0o700, parents=True, exist_ok=True)
    work.locks.mkdir(mode=0o775, parents=True, exist_ok=True)
    from mlflow import MlflowClient

    with Lease(work.lease_file("registry"), "the registry's database", waits=True):
        if database.exists():
            return
        for abandoned in work.registry.glob(".new-*"):
            abandoned.unlink()
        new = work.registry / f".new-{os.getpid()}.db"
        MlflowClient(sqlite_uri(new)).search_experiments(max_results=1)
        new.rename(database)


def _import_quietly(work: Work) -> None:
    """Import TensorFlow without its chatter, and for the CPU alone: this process trains nothing."""
    from jobs.tensorflow_import import import_tensorflow

    work.path.mkdir(parents=True, exist_ok=True)
    import_tensorflow(work.retrains / "tensorflow.log" if work.retrains.exists() else Path(os.devnull))
    import tensorflow as tf

    with suppress(RuntimeError):  # too late: somebody has used it by now
        tf.config.set_visible_devices([], "GPU")
    logging.getLogger("mlflow").setLevel(logging.ERROR)


def _write_model(entry: Entry, folder: Path) -> None:
    """Write an MLflow model of the tensorflow (Keras) and pyfunc flavours, with the very file that was trained."""
    import keras
    import mlflow.tensorflow
    import numpy as np
    import tensorflow as tf
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(single, (-1, *entry.shape))]), Schema([TensorSpec(single, (-1, entry.classes))])
    )
    model = load_keras(entry.model, "train it again", entry.model_sha256)
    # Without the list MLflow would load the model in another process to find out what it imports.
    needs = [f"tensorflow=={tf.__version__}", f"keras=={keras.__version__}", f"numpy=={np.__version__}"]
    mlflow.tensorflow.save_model(model, str(folder), signature=signature, pip_requirements=needs)
    shutil.copyfile(entry.model, folder / _KERAS_FILE)


def _version(found: Any, aliases: Mapping[str, int]) -> Version:
    number, tags = int(found.version), found.tags
    accuracy = None
    with suppress(KeyError, ValueError):  # anybody may have made the version
        accuracy = float(tags[_ACCURACY])
    sha256 = tags.get(_MODEL_SHA, "")
    return Version(
        number,
        tags.get(_RUN, ""),
        accuracy,
        sha256 if _SHA256.fullmatch(sha256) else "",  # files here are named by it
        found.creation_timestamp / 1000,
        tuple(alias for alias in ALIASES if aliases.get(alias) == number),
    )
