"""Old runs of retraining, and the data only they used: removed by a policy, with what killed processes left behind.

Never removed: a run that the registry calls champion, challenger or previous; the last one; one under way, in use, or
waiting for the registry; a run of `idxtrain run`, which is its user's own; data that any run left uses.
"""

import logging
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deploy.registry import Registry
from deploy.versions import Version, is_name
from jobs import parts
from jobs.errors import IdxtrainError, InputError
from jobs.run_dir import RunDir, Work, read_object
from jobs.stage import read_record
from pipelines.lock import RunLock
from pipelines.retrain_state import BusyError, Place

_DEAD_SECONDS = 3600.0  # a temporary file that nobody has touched for so long is a dead process's
# See jobs.files, pipelines.lock and deploy.registry.
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp-.+|\.[0-9a-f]{16}\.lock|\.after-.+\.lock|\.\d+-.+\.keras|\.new-\d+\.db.*")

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class Removal:
    """One thing that goes. `kind`: run, dataset, part, leftover, registration or version."""

    kind: str
    name: str


@dataclass(frozen=True)
class _Runs:
    """All runs of a work directory: those that go, those that stay, and those that cannot be read."""

    old: tuple[RunDir, ...]
    kept: tuple[RunDir, ...]
    unknown: tuple[str, ...]


class Pruning:
    """Prunes a work directory: `keep` is how many of the newest runs of each model stay in any case.

    `held`: the place whose lock this process has. `is_dry`: only tell.
    """

    def __init__(
        self,
        work: Work,
        keep: int,
        environment: Mapping[str, str] = os.environ,
        *,
        held: Place | None = None,
        is_dry: bool = False,
        versions: bool = False,
    ) -> None:
        self._work, self._keep, self._environment = work, keep, environment
        self._held, self._is_dry, self._versions = held, is_dry, versions
        folders = sorted(work.retrains.iterdir()) if work.retrains.exists() else []
        names = [each.name for each in folders if each.is_dir() and not each.name.startswith(".")]
        for odd in [name for name in names if not is_name(name)]:
            log.warning("prune: %s is no registered model's folder; it stays", work.retrains / odd)
        self._places = [Place(work, name) for name in names if is_name(name)]

    def run(self) -> list[Removal]:
        """Remove what is to go, or tell of it; return it. Raises RegistryDownError before anything is removed: what
        may go only the registry knows.
        """
        if not self._work.path.is_dir():
            raise InputError(f"--work {self._work.path}: there is no such folder; give the one to prune")
        self._work.locks.mkdir(exist_ok=True)
        try:
            with FileLock(self._work.locks / "prune.lock", timeout=0):
                return self._removals()
        except Timeout:
            raise InputError(f"prune: another one is at work in {self._work.path}; wait for it") from None

    def _removals(self) -> list[Removal]:
        registries = {place: Registry(self._work, place.name, self._environment) for place in self._places}
        found = self._look(registries)
        done = [*self._orphans(registries, found)]
        if self._versions:
            done += self._old_versions(registries, found)
        gone = [run for run in found.old if self._remove_run(run)]
        left = [*found.kept, *(run for run in found.old if run not in gone)]
        done += [Removal("run", run.run_id) for run in gone]
        return [*done, *self._data(left, found.unknown), *self._leftovers()]

    # --- runs

    def _look(self, registries: Mapping[Place, Registry]) -> _Runs:
        """Sort all runs into those that go and those that stay."""
        # First what places need, then the runs: one that begins meanwhile is not among them.
        needed = set().union(*(_needed(place) for place in self._places))
        for registry in registries.values():
            needed |= {version.run_id for version in registry.versions() if version.aliases}
        old, kept, unknown, by_model = [], [], [], []
        for folder in sorted(self._work.runs.iterdir()) if self._work.runs.exists() else []:
            run = RunDir(folder)
            try:
                config = read_object(run.config_file, "") if run.config_file.exists() else {}
            except (InputError, OSError):
                unknown.append(run.run_id)
                continue
            if not config and run.run_id not in needed and _is_dead(folder):
                old.append(run)  # killed between the folder and its config
            elif not _is_of_retrain(config) or run.run_id in needed:
                kept.append(run)
            else:
                by_model.append((_model_of(run, config), run))
        by_model.sort(key=lambda pair: (pair[0], pair[1].run_id))
        for _, pairs in groupby(by_model, key=lambda pair: pair[0]):
            mine = [run for _, run in pairs]  # their IDs sort by time
            old += mine[: -self._keep]
            kept += mine[-self._keep :]
        idle = [run for run in old if _is_idle(run)]
        kept += [run for run in old if run not in idle]
        return _Runs(tuple(idle), tuple(kept), tuple(unknown))

    def _remove_run(self, run: RunDir) -> bool:
        if self._is_dry:
            return True
        try:
            with RunLock(run):  # whoever wants to go on with it finds it in use, then gone
                self._move_away(run.path)
        except (InputError, OSError) as error:
            log.warning("prune: run %s stays: %s", run.run_id, error)
            return False
        self._empty_bin()
        return True

    # --- data

    def _data(self, runs: Sequence[RunDir], unknown: Sequence[str]) -> Iterator[Removal]:
        """Remove the datasets of parts that no run left uses, then the parts that no dataset left is made of."""
        under_way = [run.run_id for run in runs if _dataset(run) is None and not _is_idle(run)]
        if unknown or under_way:
            which = ", ".join([*unknown, *under_way][:3])
            log.info("prune: all data stay, as it is not known which of them these runs use: %s", which)
            return
        used = {_dataset(run) for run in runs}
        folders = sorted(self._work.datasets.iterdir()) if self._work.datasets.exists() else []
        left = []
        for folder in folders:
            lock = self._work.locks / f"dataset-{folder.name.removeprefix('.tmp-').partition('-')[0]}.lock"
            is_old = folder.name.startswith(".tmp-") or ((folder / parts.PARTS).exists() and folder not in used)
            if is_old and self._remove_data(folder, lock):
                yield Removal("leftover" if folder.name.startswith(".tmp-") else "dataset", folder.name)
            else:
                left.append(folder)
        yield from self._parts(left)

    def _parts(self, datasets: Iterable[Path]) -> Iterator[Removal]:
        try:
            used = set().union(*(parts.part_ids(dataset) for dataset in datasets))
        except InputError as error:
            log.info("prune: all parts stay: %s", error)
            return
        for folder in sorted(self._work.parts.iterdir()) if self._work.parts.exists() else []:
            if folder.name not in used and self._remove_data(folder, self._work.locks / "parts.lock"):
                yield Removal("leftover" if folder.name.startswith(".tmp-") else "part", folder.name)

    def _remove_data(self, folder: Path, lock: Path) -> bool:
        """Remove a folder unless a process that lives is about to make it."""
        try:
            with FileLock(lock, timeout=0):
                if not self._is_dry:
                    self._move_away(folder)
        except (Timeout, OSError) as error:
            log.warning("prune: %s stays: %s", folder, error)
            return False
        self._empty_bin()
        return True

    # --- the registry

    def _orphans(self, registries: Mapping[Place, Registry], found: _Runs) -> Iterator[Removal]:
        """Remove registrations that were never finished, of runs of this work directory."""
        mine = frozenset(run.run_id for run in (*found.old, *found.kept))
        for place, registry in registries.items():
            with self._locked(place) as is_mine:
                if is_mine:
                    for run_id in registry.orphans(mine, keep=_needed(place)):
                        if not self._is_dry:
                            registry.remove_registration(run_id)
                        yield Removal("registration", f"{place.name} {run_id}")

    def _old_versions(self, registries: Mapping[Place, Registry], found: _Runs) -> Iterator[Removal]:
        """Remove versions without an alias whose run goes, and in the work directory's own registry, is gone."""
        stay, go = ({run.run_id for run in runs} for runs in (found.kept, found.old))
        for place, registry in registries.items():
            with self._locked(place) as is_mine:
                # A killed promotion is still to move an alias to one of them.
                is_settled = is_mine and place.read("promotion") is None
                versions: Sequence[Version] = registry.versions() if is_settled else ()
                for version in versions:
                    is_old = version.run_id not in stay if registry.is_local else version.run_id in go
                    if not version.aliases and is_old:
                        if not self._is_dry:
                            registry.delete(version)
                        yield Removal("version", f"{place.name} {version.number}")

    @contextmanager
    def _locked(self, place: Place) -> Iterator[bool]:
        """Tell whether this process has a place's lock, taking it where it is free."""
        with ExitStack() as stack:
            if self._held is None or place.name != self._held.name:
                try:
                    stack.enter_context(place.lock())
                except BusyError as error:
                    log.info("prune: %s", error)
                    yield False
                    return
            yield True

    # --- what kills leave

    def _leftovers(self) -> Iterator[Removal]:
        """Remove temporary files and folders of dead processes."""
        folders = [self._work.registry, *(each for place in self._places for each in place.folders)]
        found = [path for folder in folders if folder.exists() for path in sorted(folder.iterdir())]
        found = [path for path in found if _TEMPORARY.fullmatch(path.name)]
        found += sorted(self._work.scratch.iterdir()) if self._work.scratch.exists() else []
        for path in found:
            if _is_dead(path):
                if not self._is_dry:
                    _delete(path)
                yield Removal("leftover", path.name)
        if not self._is_dry:
            self._empty_bin()

    def _move_away(self, path: Path) -> None:
        """Take a folder out of sight in one step: a kill leaves it whole or gone."""
        self._work.bin.mkdir(mode=0o700, exist_ok=True)
        path.rename(self._work.bin / f"{secrets.token_hex(4)}-{path.name}")

    def _empty_bin(self) -> None:
        for path in self._work.bin.iterdir() if self._work.bin.exists() else []:
            _delete(path)


def summary(removed: Sequence[Removal]) -> str:
    """Return how many of each kind: `3 runs, 1 dataset`."""
    counts = Counter(removal.kind for removal in removed)
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items()) or "nothing to remove"


def _needed(place: Place) -> frozenset[str]:
    pending = place.read("pending")  # before the state: a run goes from here to there
    notes: list[dict[str, Any]] = [note for note in (pending, place.read("state"), place.read("champion")) if note]
    ids = {str(note["run_id"]) for note in notes} | set(place.waiting())
    return frozenset(ids | ({str(pending["champion_run"])} if pending else set()))


def _is_of_retrain(config: Mapping[str, Any]) -> bool:
    return bool(config.get("evaluate", {}).get("compare"))


def _model_of(run: RunDir, config: Mapping[str, Any]) -> str:
    with suppress(InputError):
        return str(read_object(run.decision_file, "").get("name"))
    return str(config.get("fetch", {}).get("dataset"))


def _dataset(run: RunDir) -> Path | None:
    """Return the dataset a run was prepared with; None where it has come to none yet."""
    try:
        return Path(read_record(run, "prepare").outputs["dataset"])
    except (InputError, OSError, KeyError, TypeError):
        return None


def _is_idle(run: RunDir) -> bool:
    try:
        with RunLock(run):
            return True
    except (IdxtrainError, OSError):
        return False


def _is_dead(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _DEAD_SECONDS
    return False


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
