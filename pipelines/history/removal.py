"""`idxtrain runs rm`: remove runs that are not in use and that no registered model needs."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.errors import InputError
from jobs.lease import HeldError, Lease, living_owner
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from pipelines import runs
from pipelines.history.sizes import size_of, size_text
from pipelines.lock import RunLock


def remove(
    work: Work, chosen: Sequence[RunDir], *, with_data: bool, is_dry: bool, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Remove runs, and with `with_data` the datasets that no other run uses; yield a line for each, with its size.

    Raises InputError, before anything is removed, for a run that is in use or that a registered model needs.
    """
    needed = _needed(work, environment)
    for run in chosen:
        if run.run_id in needed:
            raise InputError(
                f"run {run.run_id}: is needed by the registered model {needed[run.run_id]}, expected a run that no "
                "model needs; fix: `idxtrain prune` removes old runs of retraining"
            )
        if living_owner(run.path / "lock.json") is not None:
            raise InputError(f"run {run.run_id}: a process is working on it, expected none; fix: stop it, or wait")
    datasets = {dataset: None for run in chosen if with_data and (dataset := _dataset(run))}
    for run in chosen:
        size = size_of(run.path)
        if not is_dry:
            with RunLock(run):  # a process that would resume the run finds it in use, then removed
                _remove(work, run.path)
        yield f"{'would remove' if is_dry else 'removed'} run {run.run_id}: {size_text(size)}"
    for dataset in datasets:
        yield _remove_dataset(work, dataset, chosen, is_dry)


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
    """Remove a dataset unless a run that stays uses it or a process works on it; return what was done."""
    others = [run for run in runs.all_of(work) if run not in chosen and _dataset(run) == dataset]
    if others:
        return f"kept dataset {dataset.name}: {others[0].run_id} uses it"
    size = size_of(dataset)
    if not is_dry:
        try:
            work.locks.mkdir(mode=0o775, exist_ok=True)
            with Lease(work.lease_file(f"dataset-{dataset.name}"), f"dataset {dataset.name}"):
                _remove(work, dataset)
        except HeldError as error:
            return f"kept dataset {dataset.name}: {error.why}"
    return f"{'would remove' if is_dry else 'removed'} dataset {dataset.name}: {size_text(size)}"


def _dataset(run: RunDir) -> Path | None:
    """Return the dataset that a run was prepared with, or None if it has none, or it is gone."""
    with suppress(InputError, OSError):
        dataset = dataset_of(run)
        return dataset if dataset.exists() else None
    return None


def _remove(work: Work, folder: Path) -> None:
    """Move a folder to the bin in one step, so that after a kill it is whole or gone, then delete it."""
    work.bin.mkdir(mode=0o700, exist_ok=True)
    doomed = work.bin / f"{secrets.token_hex(4)}-{folder.name}"
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
