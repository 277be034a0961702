"""The model registry: MLflow's, in a SQLite file of the work folder or on the server that MLFLOW_TRACKING_URI names.

Only the pipeline's process uses it, never a rank. MLflow keeps runs, and models with numbered versions. The aliases
`champion`, `challenger` and `previous` each name one version. Setting an alias is a single database transaction: a
reader sees the old version or the new one. https://mlflow.org/docs/latest/ml/model-registry/
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deploy.registry.mlflow_model import KERAS_FILE, MODEL, import_tensorflow_for_cpu, write_model
from deploy.registry.mlflow_runs import DATA_FILE, MAX_CHARACTERS, RUN_TAG, create_run, delete_runs, recorded_run_ids
from deploy.registry.tracking import (
    MLFLOW_DEFAULTS,
    MLFLOW_NO_PICKLE,
    RegistryDownError,
    naming_registry,
    require_answer,
    scratch,
    sqlite_uri,
    tracking_uri,
)
from deploy.registry.versions import ALIASES, Entry, Version
from jobs.dataset import MANIFEST, Manifest, read_manifest
from jobs.errors import IdxtrainError, InputError
from jobs.files import sha256_file, write_atomic
from jobs.lease import Lease
from jobs.model_file.load import load_keras
from jobs.run_dir import Work

_MODEL_TAG, _ACCURACY_TAG = "idxtrain.model_sha256", "idxtrain.test_accuracy"
_SHA256 = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger("idxtrain")


class Registry:
    """One registered model, `name`, in the registry of a work folder. Its methods raise RegistryDownError."""

    def __init__(self, work: Work, name: str, environment: Mapping[str, str]) -> None:
        """Connect; raise RegistryDownError if the registry does not answer."""
        self.name, self.uri, self._work = name, tracking_uri(work, environment), work
        for key, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(key, value)
        os.environ.update(MLFLOW_NO_PICKLE)
        with naming_registry(self.uri):
            require_answer(self.uri)
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            if self.is_local:
                _make_database(work)
            from mlflow import MlflowClient

            self._client = MlflowClient(self.uri)
            if not self.is_local:
                self._aliases()  # fails if the HTTP server is not a registry

    @property
    def is_local(self) -> bool:
        """Whether the registry is the work folder's own."""
        return self.uri == tracking_uri(self._work, {})

    # --- reading

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""
        with naming_registry(self.uri):
            aliases = self._aliases()
            pages: list[Any] = []
            token: str | None = None
            while token is None or token:
                page = self._client.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
                pages += page
                token = page.token or ""
        versions = [_version(each, aliases) for each in pages]
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
        """Return the version that an alias names, or None."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def find(self, which: str) -> Version:
        """Return a version by its number, alias or run ID; raise InputError if there is no such version."""
        versions = self.versions()
        for version in versions:
            if which in (str(version.number), f"v{version.number}", version.run_id, *version.aliases):
                return version
        known = ", ".join(str(version.number) for version in versions) or "none"
        raise InputError(f"{self.name}: found no version, alias or run {which!r}, expected one of: {known}")

    def model_file(self, version: Version, folder: Path) -> Path:
        """Return a version's Keras file, downloaded into `folder`; raise IdxtrainError if its SHA-256 differs."""
        if not version.model_sha256:
            raise IdxtrainError(
                f"{self.name} version {version.number}: found no SHA-256, expected one; fix: promote another version"
            )
        target = folder / f"{version.model_sha256[:16]}.keras"
        if not (target.exists() and sha256_file(target) == version.model_sha256):
            with self._artifact(version, f"{MODEL}/{KERAS_FILE}") as artifact:
                folder.mkdir(parents=True, exist_ok=True)

                def copy(temporary: Path) -> None:
                    shutil.copyfile(artifact, temporary)

                write_atomic(target, copy)
        digest = sha256_file(target)
        if digest != version.model_sha256:
            target.unlink()
            raise IdxtrainError(
                f"{self.name} version {version.number}: found a model of SHA-256 {digest[:12]}…, expected "
                f"{version.model_sha256[:12]}…; fix: promote another version"
            )
        return target

    def manifest(self, version: Version) -> Manifest:
        """Return the manifest of the dataset that a version was trained on."""
        with self._artifact(version, MANIFEST) as artifact:
            return read_manifest(artifact.parent)

    def training_data(self, version: Version) -> dict[str, Any]:
        """Return the facts of the training data that `register` recorded."""
        with self._artifact(version, DATA_FILE) as artifact:
            return dict(json.loads(artifact.read_text(encoding="utf-8")))

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
        """Return a version's probabilities [n, classes] for images float32 [n, height, width, channels].

        Raises IdxtrainError if the file is not the one that was registered. MLflow's own loader is never used: it reads
        whatever is beside that file, pickles included.
        """
        with scratch(self._work) as folder:
            file = self.model_file(version, folder)
            import_tensorflow_for_cpu(self._work)
            model = load_keras(file, "promote another version", version.model_sha256)
        return model.predict(images, verbose=0)

    # --- registering

    def register(self, entry: Entry) -> Version:
        """Return the version of a run; make it if there is none.

        The version appears once all its files are stored. What an interrupted attempt left is removed first.
        """
        existing = self._registered(entry)
        if existing:
            return existing
        with naming_registry(self.uri):
            experiment = self._experiment()
            self._delete_runs(experiment, entry.run_id)
            run = create_run(self._client, experiment, entry)
            import_tensorflow_for_cpu(self._work)
            with scratch(self._work) as folder:
                model = folder / MODEL
                write_model(entry, model)
                self._client.log_artifacts(run.info.run_id, str(model), MODEL)
            self._client.set_terminated(run.info.run_id)
            self._require_model()
            created = self._client.create_model_version(
                self.name,
                f"{run.info.artifact_uri}/{MODEL}",
                run.info.run_id,
                tags={
                    RUN_TAG: entry.run_id,
                    _MODEL_TAG: entry.model_sha256,
                    _ACCURACY_TAG: str(entry.metrics.get("test_accuracy", "")),
                },
            )
            return _version(created, {})

    def _registered(self, entry: Entry) -> Version | None:
        """Return the version that holds this very model, or None.

        The run ID alone proves nothing: anybody who may write to the registry can tag a version with it.
        """
        for version in self.versions():
            if version.run_id == entry.run_id:
                if version.model_sha256 == entry.model_sha256 and self._is_intact(version):
                    return version
                log.warning("%s: version %d is not the model of run %s", self.name, version.number, entry.run_id)
        return None

    def _is_intact(self, version: Version) -> bool:
        """Return whether a version's file has its SHA-256, and the version leads MLflow's users to that file."""
        with scratch(self._work) as folder:
            try:
                self.model_file(version, folder)
                with naming_registry(self.uri):
                    run = self._client.get_run(self._run_of(version))
                    source = self._client.get_model_version(self.name, str(version.number)).source
                return str(source) == f"{run.info.artifact_uri}/{MODEL}"
            except RegistryDownError as error:
                if getattr(error.__cause__, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
            except IdxtrainError:
                return False

    def _experiment(self) -> str:
        """Return the ID of the model's experiment; create or restore it if needed."""
        experiment = self._client.get_experiment_by_name(self.name)
        if experiment is not None:
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        location = (self._work.registry / "artifacts" / self.name).as_uri() if self.is_local else None
        return str(self._client.create_experiment(self.name, artifact_location=location))

    def _require_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def orphans(self, own: frozenset[str] = frozenset(), keep: frozenset[str] = frozenset()) -> list[str]:
        """Return the IDs of runs whose registration was interrupted: MLflow has a run of theirs, but no version.

        `keep`: run IDs to leave out. `own`: the run IDs of this work folder. A server's registry is shared, so only
        these are returned from one: another work folder may be registering its run at this moment.
        """
        registered = {version.run_id for version in self.versions()}
        with naming_registry(self.uri):
            experiment = self._client.get_experiment_by_name(self.name)
            if experiment is None:
                return []
            unfinished = recorded_run_ids(self._client, experiment.experiment_id) - registered - keep
            return sorted(unfinished if self.is_local else unfinished & own)

    def remove_registration(self, run_id: str) -> None:
        """Delete what an interrupted registration of a run left: see `orphans`."""
        with naming_registry(self.uri):
            self._delete_runs(self._experiment(), run_id)

    def _delete_runs(self, experiment: str, run_id: str) -> None:
        delete_runs(self._client, experiment, run_id, with_files=self.is_local)

    # --- changing a version

    def set_alias(self, alias: str, number: int) -> None:
        """Point an alias to a version, in one transaction."""
        with naming_registry(self.uri):
            self._client.set_registered_model_alias(self.name, alias, str(number))

    def drop_alias(self, alias: str) -> None:
        """Remove an alias."""
        with naming_registry(self.uri):
            self._client.delete_registered_model_alias(self.name, alias)

    def set_tag(self, version: Version, key: str, value: str) -> None:
        """Set the tag `idxtrain.KEY` of a version, e.g. to the gate's decision. Long values are cut."""
        with naming_registry(self.uri):
            self._client.set_model_version_tag(
                self.name, str(version.number), f"idxtrain.{key}", value[:MAX_CHARACTERS]
            )

    def attach(self, version: Version, *files: Path) -> None:
        """Add files to a version's MLflow run after its registration."""
        with naming_registry(self.uri):
            for file in files:
                self._client.log_artifact(self._run_of(version), str(file))

    def delete(self, version: Version) -> None:
        """Delete a version, its MLflow run and, in the work folder's own registry, its files."""
        with naming_registry(self.uri):
            experiment = self._experiment()
            self._client.delete_model_version(self.name, str(version.number))
            self._delete_runs(experiment, version.run_id)


def _make_database(work: Work) -> None:
    """Create the SQLite file, complete or not at all: MLflow makes its tables in many steps, which a kill may cut."""
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


def _version(raw: Any, aliases: Mapping[str, int]) -> Version:
    """Return MLflow's version as ours. Anybody may have made it, so its tags may hold anything."""
    number, tags = int(raw.version), raw.tags
    accuracy = None
    with suppress(KeyError, ValueError):
        accuracy = float(tags[_ACCURACY_TAG])
    sha256 = tags.get(_MODEL_TAG, "")
    return Version(
        number=number,
        run_id=tags.get(RUN_TAG, ""),
        accuracy=accuracy,
        model_sha256=sha256 if _SHA256.fullmatch(sha256) else "",  # becomes a file name
        created=raw.creation_timestamp / 1000,
        aliases=tuple(alias for alias in ALIASES if aliases.get(alias) == number),
    )
