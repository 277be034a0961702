"""What `retrain` remembers of one registered model, in WORK/retrain/NAME/: small sealed files, each whole or not there.

state.json       the last finished retraining: its inputs, its run, what it came to
pending.json     the retraining under way, which a killed one is gone on with
news.json        the last outcome, until it has been told
promotion.json   the journal of `pipelines.retraining.promotion`
champion.json    the champion, and models/ its file, for when the registry is away
best.json        the best champion so far, and models/ its file: see `pipelines.retraining.best_champion`
outbox/RUN.json  runs that wait for the registry
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.registry.tracking import tracking_uri
from deploy.registry.versions import is_name
from jobs.errors import InputError
from jobs.files import read_object, sealed, sha256_file, take_seal, write_json
from jobs.run_dir import RunDir, Work
from pipelines.lock import RunLock


def require_name(name: str) -> None:
    """Raise InputError for what cannot name a registered model."""
    if not is_name(name):
        raise InputError(f"--name {name!r}: expected letters, digits, '.', '_' and '-', not starting with '.'")


class BusyError(InputError):
    """Another process is at work on the model."""


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
        """Copies of the registry's files that are needed here, named by their SHA-256."""
        return self.path / "models"

    @property
    def outbox(self) -> Path:
        """Runs that wait for the registry."""
        return self.path / "outbox"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders of a place."""
        return self.path, self.models, self.outbox

    def make(self) -> None:
        """Make the folder, for its user alone."""
        self.work.path.mkdir(mode=0o775, parents=True, exist_ok=True)
        for folder in (self.work.retrains, self.path, self.outbox):
            folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return one of the files, or None where there is none. One that is not whole counts as none."""
        path = self.path / f"{name}.json"
        if not path.exists():
            return None
        try:
            raw = read_object(path, "remove it")
        except InputError:
            return None
        return raw if take_seal(raw) else None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write one of the files, whole."""
        write_json(self.path / f"{name}.json", sealed(value))

    def remove(self, name: str) -> None:
        """Remove one of the files, if it is there."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def waiting(self) -> list[str]:
        """Return the IDs of the runs that wait for the registry, oldest first."""
        files = self.outbox.glob("*.json") if self.outbox.exists() else []
        return [path.stem for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]

    def champion_file(self, note: Mapping[str, Any]) -> Path:
        """Return where a champion's copy lies. `note`: what champion.json or best.json says."""
        return self.models / f"{note['model_sha256'][:16]}.keras"

    def has_copy(self, note: Mapping[str, Any]) -> bool:
        """Return whether a champion's copy is there and has the SHA-256 that its note says."""
        try:
            return sha256_file(self.champion_file(note)) == note["model_sha256"]
        except OSError:
            return False

    def in_use(self, model: Path) -> bool:
        """Tell whether the retraining under way compares with this copy, or begins with it, or the next ones will."""
        pending, best = self.read("pending"), self.read("best")
        if best is not None and model == self.champion_file(best):
            return True
        if pending is None:
            return False
        second = pending.get("best")
        if second and model == self.champion_file(second):
            return True
        return str(model) in (pending["champion"], pending.get("initial"))

    def lock(self) -> "RetrainLock":
        """Return the lock that one process at a time holds; entering it raises BusyError where another has it."""
        self.make()
        return RetrainLock(self)


def require_registry(place: RetrainDir, environment: Mapping[str, str], *, changes: bool) -> None:
    """Raise InputError where there is no registry to open, so that a wrong --work makes none.

    `changes`: whether the place's folder is needed, too, where a server keeps the registry.
    """
    work, fix = place.work, "give the one that `idxtrain retrain` was given"
    is_local = tracking_uri(work, environment) == tracking_uri(work, {})
    if not work.path.is_dir() and (changes or is_local):
        raise InputError(f"--work {work.path}: there is no such folder; {fix}")
    # What waits for a registry of its own that is gone makes it again.
    if is_local and not work.registry.is_dir() and not place.path.is_dir():
        raise InputError(f"--work {work.path}: found no model registry, expected {work.registry}; {fix}")


class RetrainLock(RunLock):
    """The lock of a run (see there), on the folder of a registered model."""

    def __init__(self, place: RetrainDir) -> None:
        self._name = place.name
        super().__init__(RunDir(place.path))

    def __enter__(self) -> "RetrainLock":
        """Take the lock; raise BusyError where another process, which lives, has it."""
        try:
            super().__enter__()
        except InputError as error:
            who = str(error).partition(": ")[2].partition(";")[0]
            raise BusyError(f"{self._name}: {who}; try again when it is done") from error
        return self
