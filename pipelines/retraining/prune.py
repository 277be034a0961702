"""Pruning: remove old runs of retraining, the data only they used, and what killed processes left.

Never removed: the runs of champion, challenger, previous and best champion so far; the last retraining's run; a run
that is under way, in use, or waiting for the registry; a run of `idxtrain run`; data that a remaining run uses.
"""

import logging
import os
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
from pipelines.bin import move_away
from pipelines.history.sizes import in_store
from pipelines.leftovers import is_dead
from pipelines.lock import RunLock
from pipelines.retraining.records import BestChampion, Champion, Pending, Promotion, State
from pipelines.retraining.register import read_decision
from pipelines.retraining.retrain_dir import BusyError, RetrainDir
from pipelines.runs import written

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class Removal:
    """One thing that is removed. `kind`: run, dataset, segment, leftover, registration or version."""

    kind: str
    name: str


@dataclass(frozen=True)
class _Runs:
    """All runs of a work folder: to be removed, to be kept, and unreadable."""

    old: tuple[RunDir, ...]
    kept: tuple[RunDir, ...]
    unknown: tuple[str, ...]


class Pruning:
    """One pruning of a work folder. `keep`: how many of the newest runs of each model always stay.

    `locked`: the folder whose lock this process already holds. `is_dry`: only list what would be removed. `versions`:
    also remove versions of the registry that have no alias and whose run is removed.
    """

    def __init__(
        self,
        work: Work,
        keep: int,
        environment: Mapping[str, str] = os.environ,
        *,
        locked: RetrainDir | None = None,
        is_dry: bool = False,
        versions: bool = False,
    ) -> None:
        self._work, self._keep, self._environment = work, keep, environment
        self._locked, self._is_dry, self._versions = locked, is_dry, versions
        self._removed_runs: frozenset[str] = frozenset()
        folders = sorted(work.retrains.iterdir()) if work.retrains.exists() else []
        names = [each.name for each in folders if each.is_dir() and not each.name.startswith(".")]
        for odd in [name for name in names if not is_name(name)]:
            log.warning("prune: %s: not the folder of a registered model; it is kept", work.retrains / odd)
        self._retrain_dirs = [RetrainDir(work, name) for name in names if is_name(name)]

    def run(self) -> list[Removal]:
        """Remove what the policy removes, and return it.

        Raises RegistryDownError before anything is removed: only the registry knows which runs are needed.
        """
        if not self._work.path.is_dir():
            raise InputError(f"--work {self._work.path}: found no such folder, expected the work folder to prune")
        self._work.locks.mkdir(mode=0o775, exist_ok=True)
        try:
            with Lease(self._work.lease_file("prune"), f"prune: {self._work.path}"):
                return self._removals()
        except HeldError as error:
            raise InputError(
                f"--work {self._work.path}: found another prune running ({error.why}), expected none; fix: wait for it"
            ) from error

    def _removals(self) -> list[Removal]:
        registries = {each: Registry(self._work, each.name, self._environment) for each in self._retrain_dirs}
        runs = self._sort_runs(registries)
        removals = [*self._orphans(registries, runs)]
        if self._versions:
            removals += self._old_versions(registries, runs)
        removed = [run for run in runs.old if self._remove_run(run)]
        self._removed_runs = frozenset(run.run_id for run in removed)
        left = [*runs.kept, *(run for run in runs.old if run not in removed)]
        removals += [Removal("run", run.run_id) for run in removed]
        return [*removals, *self._data(left, runs.unknown), *self._leftovers()]

    # --- runs

    def _sort_runs(self, registries: Mapping[RetrainDir, Registry]) -> _Runs:
        """Sort all runs into those to remove and those to keep."""
        # A run that begins after this line is not among the needed ones, but it is the newest, and soon in use.
        needed = set().union(*(needed_runs(each) for each in self._retrain_dirs))
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
                old.append(run)  # a kill came between the folder and its config
            elif not _is_of_retrain(config) or run.run_id in needed:
                kept.append(run)
            else:
                by_model.append((_model_of(run, config), run))
        by_model.sort(key=lambda pair: (pair[0], written(pair[1].config_file), pair[1].run_id))
        for _, pairs in groupby(by_model, key=lambda pair: pair[0]):
            of_model = [run for _, run in pairs]
            old += of_model[: -self._keep]
            kept += of_model[-self._keep :]
        idle = [run for run in old if _is_idle(run)]
        kept += [run for run in old if run not in idle]
        return _Runs(tuple(idle), tuple(kept), tuple(unknown))

    def _remove_run(self, run: RunDir) -> bool:
        if self._is_dry:
            return True
        try:
            with RunLock(run):  # a process that would resume the run finds it in use, then removed
                self._move_away(run.path)
        except (InputError, OSError) as error:
            log.warning("prune: run %s is kept: %s", run.run_id, error)
            return False
        self._empty_bin()
        return True

    # --- data

    def _data(self, runs: Sequence[RunDir], unknown: Sequence[str]) -> Iterator[Removal]:
        """Remove the datasets that no remaining run uses, then the segments that no remaining dataset consists of.

        A dataset without segments is of `idxtrain run` and is kept.
        """
        under_way = [run.run_id for run in runs if _dataset(run) is None and not _is_idle(run)]
        if unknown or under_way:
            which = ", ".join([*unknown, *under_way][:3])
            log.info("prune: all data is kept, as the data of these runs is unknown: %s", which)
            return
        used_by = {run.run_id: _dataset(run) for run in runs}
        removed = []
        for folder in _folders(self._work.datasets):
            is_unfinished = folder.name.startswith(".tmp-")
            is_old = is_unfinished or ((folder / segments.SEGMENTS).exists() and folder not in used_by.values())
            if is_old and self._remove_dataset(folder, used_by):
                removed.append(folder)
                yield Removal("leftover" if is_unfinished else "dataset", folder.name)
        yield from self._segments(removed)

    def _remove_dataset(self, folder: Path, used_by: Mapping[str, Path | None]) -> bool:
        """Remove a dataset unless a living process makes it or may come to use it."""
        name = folder.name.removeprefix(".tmp-").partition("-")[0]
        try:
            # A process that uses the dataset takes the same lease, and has a run by then.
            with Lease(self._work.lease_file(f"dataset-{name}"), f"dataset {name}"):
                user = None if folder.name.startswith(".tmp-") else self._new_user(folder, used_by)
                elsewhere = in_store(folder)
                if user is None:
                    self._move_away(folder)
        except (InputError, OSError) as error:
            log.warning("prune: %s is kept: %s", folder, error)
            return False
        if user is not None:
            log.info("prune: %s is kept: run %s may use it", folder, user)
            return False
        if elsewhere:
            log.info("prune: %s: %s stay there", folder, elsewhere)
        self._empty_bin()
        return True

    def _new_user(self, folder: Path, used_by: Mapping[str, Path | None]) -> str | None:
        """Return the ID of a run that may have begun to use a dataset since the runs were listed, or None.

        `used_by`: the dataset of each run that was listed and is kept.
        """
        for path in _folders(self._work.runs):
            run = RunDir(path)
            if used_by.get(run.run_id) is not None or (self._is_dry and run.run_id in self._removed_runs):
                continue
            dataset = _dataset(run)
            may_use_one = dataset is None and (run.run_id not in used_by or not _is_idle(run))
            if dataset == folder or may_use_one:
                return run.run_id
        return None

    def _segments(self, removed_datasets: Sequence[Path]) -> list[Removal]:
        """Remove the segments that no dataset consists of, unless a living process is making some."""
        removals = []
        try:
            with Lease(self._work.lease_file("segments"), "the segments"):
                left = [folder for folder in _folders(self._work.datasets) if folder not in removed_datasets]
                used = set().union(*map(segments.segment_ids, left))
                for folder in _folders(self._work.segments):
                    if folder.name not in used:
                        self._move_away(folder)
                        kind = "leftover" if folder.name.startswith(".tmp-") else "segment"
                        removals.append(Removal(kind, folder.name))
        except (InputError, OSError) as error:
            log.info("prune: the segments are kept: %s", error)
        self._empty_bin()
        return removals

    # --- the registry

    def _orphans(self, registries: Mapping[RetrainDir, Registry], runs: _Runs) -> Iterator[Removal]:
        """Remove unfinished registrations of this work folder's runs."""
        own = frozenset(run.run_id for run in (*runs.old, *runs.kept))
        for retrain_dir, registry in registries.items():
            with self._lock(retrain_dir) as has_lock:
                if has_lock:
                    for run_id in registry.orphans(own, keep=needed_runs(retrain_dir)):
                        if not self._is_dry:
                            registry.remove_registration(run_id)
                        yield Removal("registration", f"{retrain_dir.name} {run_id}")

    def _old_versions(self, registries: Mapping[RetrainDir, Registry], runs: _Runs) -> Iterator[Removal]:
        """Remove versions without an alias whose run is removed, or in a local registry, no longer exists."""
        kept, old = ({run.run_id for run in group} for group in (runs.kept, runs.old))
        for retrain_dir, registry in registries.items():
            with self._lock(retrain_dir) as has_lock:
                # A killed promotion may still have to move an alias to one of the versions.
                is_settled = has_lock and retrain_dir.read(Promotion) is None
                versions: Sequence[Version] = registry.versions() if is_settled else ()
                for version in versions:
                    is_old = version.run_id not in kept if registry.is_local else version.run_id in old
                    if not version.aliases and is_old:
                        if not self._is_dry:
                            registry.delete(version)
                        yield Removal("version", f"{retrain_dir.name} {version.number}")

    @contextmanager
    def _lock(self, retrain_dir: RetrainDir) -> Iterator[bool]:
        """Take a folder's lock if it is free; yield whether this process has it."""
        with ExitStack() as stack:
            if self._locked is None or retrain_dir.name != self._locked.name:
                try:
                    stack.enter_context(retrain_dir.lock())
                except BusyError as error:
                    log.info("prune: %s", error)
                    yield False
                    return
            yield True

    # --- leftovers

    def _leftovers(self) -> Iterator[Removal]:
        """Remove temporary files and folders of dead processes."""
        folders = [self._work.registry, self._work.locks, *_folders(self._work.archives)]
        folders += [folder for retrain_dir in self._retrain_dirs for folder in retrain_dir.folders]
        dead = leftovers.in_folders(folders)
        dead += [path for path in _folders(self._work.scratch) if is_dead(path)]
        for path in dead:
            if not self._is_dry:
                _delete(path)
            yield Removal("leftover", path.name)
        for folder in _folders(self._work.runs):
            yield from self._leftovers_of(RunDir(folder))
        for path in sorted(self._work.locks.glob("*.json")):
            if is_dead(path) and (self._is_dry or _release(path)):
                yield Removal("leftover", path.name)
        self._empty_bin()

    def _leftovers_of(self, run: RunDir) -> Iterator[Removal]:
        """Remove a run's temporary files of dead processes; none of a run in use, whose own may be old, too."""
        if not leftovers.of_run(run):
            return
        with suppress(InputError, OSError), RunLock(run):  # InputError: in use
            for path in leftovers.of_run(run):
                if not self._is_dry:
                    _delete(path)
                yield Removal("leftover", path.name)

    def _move_away(self, path: Path) -> None:
        """Move a folder to the bin in one step: after a kill it is either whole or removed."""
        if not self._is_dry:
            move_away(self._work, path)

    def _empty_bin(self) -> None:
        if not self._is_dry:
            for path in _folders(self._work.bin):
                _delete(path)


def summary(removed: Sequence[Removal]) -> str:
    """Return the number of each kind: `3 runs, 1 dataset`."""
    counts = Counter(removal.kind for removal in removed)
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items()) or "nothing to remove"


def needed_runs(retrain_dir: RetrainDir) -> frozenset[str]:
    """Return the IDs of the runs that a registered model needs."""
    pending = retrain_dir.read(Pending)  # before the state, as a finished run moves from here to there
    records = (pending, retrain_dir.read(State), retrain_dir.read(Champion), retrain_dir.read(BestChampion))
    needed = {record.run_id for record in records if record is not None} | set(retrain_dir.waiting())
    if pending is not None and pending.champion_run is not None:
        needed.add(pending.champion_run)
    return frozenset(needed)


def _is_of_retrain(config: Mapping[str, Any]) -> bool:
    return bool(config.get("evaluate", {}).get("compare"))


def _model_of(run: RunDir, config: Mapping[str, Any]) -> str:
    """Return the name of a run's registered model: of its decision, else of its data set."""
    with suppress(InputError):
        return read_decision(run).name
    return str(config.get("fetch", {}).get("dataset"))


def _dataset(run: RunDir) -> Path | None:
    """Return the dataset that a run was prepared with, or None if it has none yet."""
    try:
        return dataset_of(run)
    except (InputError, OSError, KeyError, TypeError):
        return None


def _is_idle(run: RunDir) -> bool:
    try:
        with RunLock(run):
            return True
    except (IdxtrainError, OSError):
        return False


def _release(lease: Path) -> bool:
    """Remove a lease unless its owner is alive; return whether it is removed."""
    try:
        with Lease(lease, lease.name):
            return True
    except (InputError, OSError):
        return False


def _folders(folder: Path) -> list[Path]:
    """Return what a folder contains, sorted; nothing if it does not exist."""
    return sorted(folder.iterdir()) if folder.exists() else []


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
