"""What `retrain` remembers of one registered model, in WORK/retrain/NAME/: small sealed files, each written whole.

state.json          the last finished retraining: its inputs, its run, its outcome
pending.json        the retraining under way, which is resumed after a kill
notification.json   the last outcome, until it is delivered
promotion.json      the journal of `pipelines.retraining.promotion`
champion.json       the champion, for when the registry is unreachable
best.json           the best champion so far: see `pipelines.retraining.best_champion`
models/             copies of the champion's and the best champion's files
outbox/RUN.json     runs that wait for the registry

`pipelines.retraining.records` has their fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.registry.tracking import tracking_uri
from deploy.registry.versions import is_name
from jobs.errors import InputError
from jobs.files import read_object, sealed, sha256_file, take_seal, write_json
from jobs.lease import HeldError, Lease
from jobs.run_dir import Work
from pipelines.retraining.records import BestChampion, Pending, Record, RegisteredModel, Rivals, validated

R = TypeVar("R", bound=Record)


def require_name(name: str) -> None:
    """Raise InputError unless `name` can name a registered model."""
    if not is_name(name):
        raise InputError(f"--name {name!r}: expected letters, digits, '.', '_' and '-', not starting with '.'")


class BusyError(InputError):
    """Another process is working on the model."""


@dataclass(frozen=True)
class RetrainDir:
    """The folder of one registered model."""

    work: Work
    name: str

    @property
    def path(self) -> Path:
        """WORK/retrain/NAME."""
        return self.work.retrains / self.name

    @property
    def models(self) -> Path:
        """Copies of the models that challengers are compared with, named by their SHA-256."""
        return self.path / "models"

    @property
    def outbox(self) -> Path:
        """Runs that wait for the registry."""
        return self.path / "outbox"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder and those in it."""
        return self.path, self.models, self.outbox

    def make(self) -> None:
        """Make the folder, private to its user."""
        self.work.path.mkdir(mode=0o775, parents=True, exist_ok=True)
        for folder in (self.work.retrains, self.path, self.outbox):
            folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, kind: type[R]) -> R | None:
        """Return a record, or None if its file is missing or damaged; raise InputError for one of another format."""
        path = self.path / kind.file_name
        if not path.exists():
            return None
        try:
            raw = read_object(path, kind.fix)
        except InputError:
            return None
        return validated(kind, raw, str(path), kind.fix) if take_seal(raw) else None

    def write(self, record: Record) -> None:
        """Write a record, whole."""
        write_json(self.path / record.file_name, sealed(record.to_json()))

    def remove(self, kind: type[Record]) -> None:
        """Remove a record's file, if it exists."""
        (self.path / kind.file_name).unlink(missing_ok=True)

    def waiting(self) -> list[str]:
        """Return the IDs of the runs that wait for the registry, oldest first."""
        files = self.outbox.glob("*.json") if self.outbox.exists() else []
        return [path.stem for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]

    def read_waiting(self, run_id: str) -> Rivals:
        """Return what a waiting run was compared with; raise InputError if its file is damaged or of another format."""
        path, fix = self._waiting_file(run_id), "remove it; the run then stays unregistered"
        raw = read_object(path, fix)
        if not take_seal(raw):
            raise InputError(
                f"{path}: found other content than was written, expected content that matches its SHA-256; fix: {fix}"
            )
        return validated(Rivals, raw, str(path), fix)

    def add_waiting(self, run_id: str, rivals: Rivals) -> None:
        """Put a run into the outbox, where it waits for the registry."""
        write_json(self._waiting_file(run_id), sealed(rivals.model_dump(mode="json")))

    def remove_waiting(self, run_id: str) -> None:
        """Take a run out of the outbox."""
        self._waiting_file(run_id).unlink(missing_ok=True)

    def _waiting_file(self, run_id: str) -> Path:
        return self.outbox / f"{run_id}.json"

    def copy_of(self, model: RegisteredModel) -> Path:
        """Return the path of a model's copy, whether or not it exists."""
        return self.models / f"{model.model_sha256[:16]}.keras"

    def has_copy(self, model: RegisteredModel) -> bool:
        """Return whether a model's copy exists and has the model's SHA-256."""
        try:
            return sha256_file(self.copy_of(model)) == model.model_sha256
        except OSError:
            return False

    def is_needed(self, copy: Path) -> bool:
        """Return whether the retraining under way, or a later one, compares with a copy or starts from it."""
        pending, best = self.read(Pending), self.read(BestChampion)
        models = [best, *((pending.rivals.champion, pending.rivals.best) if pending else ())]
        return any(model is not None and copy == self.copy_of(model) for model in models)

    def lock(self) -> "RetrainLock":
        """Return the lock that one process at a time holds; entering it raises BusyError if another process has it."""
        self.make()
        return RetrainLock(self)


def require_registry(retrain_dir: RetrainDir, environment: Mapping[str, str], *, changes: bool) -> None:
    """Raise InputError if there is no registry to open, so that a mistyped --work creates none.

    `changes`: the folder of the registered model is needed, too, even if a server keeps the registry.
    """
    work, fix = retrain_dir.work, "fix: give the --work of `idxtrain retrain`"
    is_local = tracking_uri(work, environment) == tracking_uri(work, {})
    if not work.path.is_dir() and (changes or is_local):
        raise InputError(f"--work {work.path}: found no such folder, expected a work folder; {fix}")
    # A local registry that was removed is made again for the runs that wait for it.
    if is_local and not work.registry.is_dir() and not retrain_dir.path.is_dir():
        raise InputError(f"--work {work.path}: found no model registry, expected {work.registry}; {fix}")


class RetrainLock(Lease):
    """The lease of a registered model's folder: see `jobs.lease`."""

    def __init__(self, retrain_dir: RetrainDir) -> None:
        self._name = retrain_dir.name
        super().__init__(retrain_dir.path / "lock.json", f"model {retrain_dir.name}")

    def __enter__(self) -> "RetrainLock":
        """Take the lock; raise BusyError if another, living process has it, or if its file was torn a moment ago."""
        try:
            super().__enter__()
        except HeldError as error:
            raise BusyError(f"{self._name}: {error.why}; try again later") from error
        except InputError as error:  # names no process: a power cut tore it, or a new owner is writing it
            raise BusyError(f"{self._name}: {error}") from error
        return self
