"""Old runs of retraining, and the data only they used: removed by a policy, with what killed processes left behind.

Never removed: a run that the registry calls champion, challenger or previous; that of the best champion so far; the
last one; one under way, in use, or waiting for the registry; a run of `idxtrain run`, which is its user's own; data
that any run left uses.
"""

import logging
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from deploy.registry.registry import Registry
from deploy.registry.versions import Version, is_name
from jobs import segments
from jobs.errors import IdxtrainError, InputError
from jobs.files import read_object
from jobs.lease import HeldError, Lease
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from pipelines import leftovers
from pipelines.leftovers import is_dead
from pipelines.lock import RunLock
from pipelines.retraining.retrain_dir import BusyError, RetrainDir
from pipelines.runs import written

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
        held: RetrainDir | None = None,
        is_dry: bool = False,
        versions: bool = False,
    ) -> None:
        self._work, self._keep, self._environment = work, keep, environment
        self._held, self._is_dry, self._versions = held, is_dry, versions
        self._going: frozenset[str] = frozenset()
        folders = sorted(work.retrains.iterdir()) if work.retrains.exists() else []
        names = [each.name for each in folders if each.is_dir() and not each.name.startswith(".")]
        for odd in [name for name in names if not is_name(name)]:
            log.warning("prune: %s is no registered model's folder; it stays", work.retrains / odd)
        self._places = [RetrainDir(work, name) for name in names if is_name(name)]

    def run(self) -> list[Removal]:
        """Remove what is to go, or tell of it; return it. Raises RegistryDownError before anything is removed: what
        may go only the registry knows.
        """
        if not self._work.path.is_dir():
            raise InputError(f"--work {self._work.path}: there is no such folder; give the one to prune")
        self._work.locks.mkdir(mode=0o775, exist_ok=True)
        try:
            with Lease(self._work.lease_file("prune"), f"prune: {self._work.path}"):
                return self._removals()
        except HeldError as error:
            raise InputError(f"prune: another one is at work in {self._work.path}; wait for it") from error

    def _removals(self) -> list[Removal]:
        registries = {place: Registry(self._work, place.name, self._environment) for place in self._places}
        found = self._look(registries)
        done = [*self._orphans(registries, found)]
        if self._versions:
            done += self._old_versions(registries, found)
        gone = [run for run in found.old if self._remove_run(run)]
        self._going = frozenset(run.run_id for run in gone)
        left = [*found.kept, *(run for run in found.old if run not in gone)]
        done += [Removal("run", run.run_id) for run in gone]
        return [*done, *self._data(left, found.unknown), *self._leftovers()]

    # --- runs

    def _look(self, registries: Mapping[RetrainDir, Registry]) -> _Runs:
        """Sort all runs into those that go and those that stay."""
        # First what places need, then the runs: one that begins meanwhile is not among them.
        needed = set().union(*(_needed(place) for place in self._places))
        for registry in registries.values():
            needed |= {version.run_id for version in registry.versions() if version.aliases}
        old, kept, unknown, by_model = [], [], [], []
        for folder in _folders(self._work.runs):
            run = RunDir(folder)
            try:
                config = read_object(run.config_file, "") if run.config_file.exists() else {}
            except (InputError, OSError):
                unknown.append(run.run_id)
                continue
            if not config and run.run_id not in needed and is_dead(folder):
                old.append(run)  # killed between the folder and its config
            elif not _is_of_retrain(config) or run.run_id in needed:
                kept.append(run)
            else:
                by_model.append((_model_of(run, config), run))
        by_model.sort(key=lambda pair: (pair[0], written(pair[1].config_file), pair[1].run_id))
        for _, pairs in groupby(by_model, key=lambda pair: pair[0]):
            mine = [run for _, run in pairs]
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
        used_by = {run.run_id: _dataset(run) for run in runs}
        gone = []
        for folder in _folders(self._work.datasets):
            is_unfinished = folder.name.startswith(".tmp-")
            is_old = is_unfinished or ((folder / segments.SEGMENTS).exists() and folder not in used_by.values())
            if is_old and self._remove_dataset(folder, used_by):
                gone.append(folder)
                yield Removal("leftover" if is_unfinished else "dataset", folder.name)
        yield from self._parts(gone)

    def _remove_dataset(self, folder: Path, used_by: Mapping[str, Path | None]) -> bool:
        """Remove a dataset unless a process that lives is about to make or use it."""
        name = folder.name.removeprefix(".tmp-").partition("-")[0]
        try:
            # Who wants to use it has to have the lease, too, and has a run by then.
            with Lease(self._work.lease_file(f"dataset-{name}"), f"dataset {name}"):
                user = None if folder.name.startswith(".tmp-") else self._new_user(folder, used_by)
                if user is None:
                    self._move_away(folder)
        except (InputError, OSError) as error:
            log.warning("prune: %s stays: %s", folder, error)
            return False
        if user is not None:
            log.info("prune: %s stays: run %s may use it", folder, user)
            return False
        self._empty_bin()
        return True

    def _new_user(self, folder: Path, used_by: Mapping[str, Path | None]) -> str | None:
        """Return a run that may have come to use a dataset since the runs were looked at; None where there is none.

        `used_by`: the dataset of each run that was there then, and stays.
        """
        for path in _folders(self._work.runs):
            run = RunDir(path)
            if used_by.get(run.run_id) is not None or (self._is_dry and run.run_id in self._going):
                continue
            dataset = _dataset(run)
            may_come_to_one = dataset is None and (run.run_id not in used_by or not _is_idle(run))
            if dataset == folder or may_come_to_one:
                return run.run_id
        return None

    def _parts(self, datasets_gone: Sequence[Path]) -> list[Removal]:
        """Remove the parts that no dataset is made of, unless a process that lives is making some."""
        done = []
        try:
            with Lease(self._work.lease_file("segments"), "the parts"):
                left = [folder for folder in _folders(self._work.datasets) if folder not in datasets_gone]
                used = set().union(*map(segments.segment_ids, left))
                for folder in _folders(self._work.segments):
                    if folder.name not in used:
                        self._move_away(folder)
                        done.append(Removal("leftover" if folder.name.startswith(".tmp-") else "part", folder.name))
        except (InputError, OSError) as error:
            log.info("prune: parts stay: %s", error)
        self._empty_bin()
        return done

    # --- the registry

    def _orphans(self, registries: Mapping[RetrainDir, Registry], found: _Runs) -> Iterator[Removal]:
        """Remove registrations that were never finished, of runs of this work directory."""
        mine = frozenset(run.run_id for run in (*found.old, *found.kept))
        for place, registry in registries.items():
            with self._locked(place) as is_mine:
                if is_mine:
                    for run_id in registry.orphans(mine, keep=_needed(place)):
                        if not self._is_dry:
                            registry.remove_registration(run_id)
                        yield Removal("registration", f"{place.name} {run_id}")

    def _old_versions(self, registries: Mapping[RetrainDir, Registry], found: _Runs) -> Iterator[Removal]:
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
    def _locked(self, place: RetrainDir) -> Iterator[bool]:
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
        places = [each for place in self._places for each in place.folders]
        found = leftovers.in_folders([self._work.registry, self._work.locks, *_folders(self._work.archives), *places])
        found += [path for folder in _folders(self._work.runs) for path in leftovers.of_run(RunDir(folder))]
        found += [path for path in _folders(self._work.scratch) if is_dead(path)]
        for path in found:
            if not self._is_dry:
                _delete(path)
            yield Removal("leftover", path.name)
        for path in sorted(self._work.locks.glob("*.json")):
            if is_dead(path) and (self._is_dry or _release(path)):
                yield Removal("leftover", path.name)
        self._empty_bin()

    def _move_away(self, path: Path) -> None:
        """Take a folder out of sight in one step: a kill leaves it whole or gone."""
        if self._is_dry:
            return
        self._work.bin.mkdir(mode=0o700, exist_ok=True)
        path.rename(self._work.bin / f"{secrets.token_hex(4)}-{path.name}")

    def _empty_bin(self) -> None:
        if not self._is_dry:
            for path in _folders(self._work.bin):
                _delete(path)


def summary(removed: Sequence[Removal]) -> str:
    """Return how many of each kind: `3 runs, 1 dataset`."""
    counts = Counter(removal.kind for removal in removed)
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items()) or "nothing to remove"


def _needed(place: RetrainDir) -> frozenset[str]:
    pending = place.read("pending")  # before the state: a run goes from here to there
    names = ("state", "champion", "best")
    notes: list[dict[str, Any]] = [note for note in (pending, *map(place.read, names)) if note]
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
        return dataset_of(run)
    except (InputError, OSError):
        return None


def _is_idle(run: RunDir) -> bool:
    try:
        with RunLock(run):
            return True
    except (IdxtrainError, OSError):
        return False


def _release(lease: Path) -> bool:
    """Remove a lease unless its owner lives."""
    try:
        with Lease(lease, lease.name):
            return True
    except (InputError, OSError):
        return False


def _folders(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing where it is not there."""
    return sorted(folder.iterdir()) if folder.exists() else []


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
