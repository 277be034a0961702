"""`idxtrain runs rm`: remove runs that are not in use and that no registered model needs."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from jobs.errors import InputError
from jobs.lease import HeldError, Lease, living_owner
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from pipelines import runs
from pipelines.bin import move_away
from pipelines.history.sizes import in_store, size_of, size_text
from pipelines.history.summary import queued_runs
from pipelines.lock import RunLock


def remove(
    work: Work, chosen: Sequence[RunDir], *, with_data: bool, is_dry: bool, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Remove runs, and with `with_data` the datasets that no other run uses; yield a line for each, with its size.

    Raises InputError, before anything is removed, for a run that is in use or that a registered model needs.
    """
    _require_removable(work, chosen, environment)
    datasets = dict.fromkeys(dataset for run in chosen if with_data and (dataset := _dataset(work, run)))
    sizes = [size_of(run.path) for run in chosen]
    verb = "would remove" if is_dry else "removed"
    doomed: list[Path] = []
    if not is_dry:
        # All locks first. Deleting may take long, and a lock's owner stops when its file is gone: see `jobs.lease`.
        with ExitStack() as locks:
            for run in chosen:
                locks.enter_context(RunLock(run))
            doomed = [move_away(work, run.path) for run in chosen]
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)
    for run, size in zip(chosen, sizes, strict=True):
        yield f"{verb} run {run.run_id}: {size_text(size)}"
    for dataset in datasets:
        yield _remove_dataset(work, dataset, chosen, is_dry)


def _require_removable(work: Work, chosen: Sequence[RunDir], environment: Mapping[str, str]) -> None:
    needed, queued = _needed(work, environment), queued_runs(chosen)
    for run in chosen:
        if run.run_id in needed:
            raise InputError(
                f"run {run.run_id}: is needed by the registered model {needed[run.run_id]}, expected a run that no "
                "model needs; fix: `idxtrain prune` removes old runs of retraining"
            )
        if run.run_id in queued:
            raise InputError(
                f"run {run.run_id}: its Slurm jobs wait, expected none; fix: `idxtrain cancel {run.selector}`"
            )
        if living_owner(run.lock_file) is not None:
            raise InputError(f"run {run.run_id}: a process is working on it, expected none; fix: stop it, or wait")


def _needed(work: Work, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the runs that registered models need, each with the name of its model."""
    from deploy.registry.registry import Registry
    from deploy.registry.versions import is_name
    from pipelines.retraining.prune import needed_runs
    from pipelines.retraining.retrain_dir import RetrainDir

    needed: dict[str, str] = {}
    names = [path.name for path in work.retrains.iterdir() if is_name(path.name)] if work.retrains.exists() else []
    for name in names:
        versions = Registry(work, name, environment).versions()
        ids = needed_runs(RetrainDir(work, name)) | {version.run_id for version in versions if version.aliases}
        needed |= dict.fromkeys(ids, name)
    return needed


def _remove_dataset(work: Work, dataset: Path, chosen: Sequence[RunDir], is_dry: bool) -> str:
    """Remove a dataset unless a run that stays may use it or a process works on it; return what was done."""
    try:
        work.locks.mkdir(mode=0o775, exist_ok=True)
        # A process that uses the dataset takes the same lease, and has a run by then.
        with Lease(work.lease_file(f"dataset-{dataset.name}"), f"dataset {dataset.name}"):
            user = _user(work, dataset, chosen)
            if user is not None:
                return f"kept dataset {dataset.name}: run {user} may use it"
            size, elsewhere = size_of(dataset, only_own=True), in_store(dataset)
            doomed = None if is_dry else move_away(work, dataset)
    except HeldError as error:
        return f"kept dataset {dataset.name}: {error.why}"
    if doomed is not None:
        shutil.rmtree(doomed, ignore_errors=True)
    stays = f"; {elsewhere} stay there" if elsewhere else ""  # datasets of other work folders may use them
    return f"{'would remove' if is_dry else 'removed'} dataset {dataset.name}: {size_text(size)}{stays}"


def _user(work: Work, dataset: Path, chosen: Sequence[RunDir]) -> str | None:
    """Return the ID of a run that stays and uses a dataset, or may: it is unreadable, or under way."""
    for run in runs.all_of(work):
        if run in chosen:
            continue
        try:
            if run.record_file("prepare").exists():
                uses = dataset_of(run).name == dataset.name
            else:
                uses = living_owner(run.lock_file) is not None
        except (InputError, OSError):
            uses = True
        if uses:
            return run.run_id
    return None


def _dataset(work: Work, run: RunDir) -> Path | None:
    """Return the dataset that a run was prepared with if it is in this work folder: a copied run names the original."""
    with suppress(InputError, OSError):
        dataset = dataset_of(run)
        return dataset if dataset.parent == work.datasets and dataset.exists() else None
    return None
