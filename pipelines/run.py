"""Runs on disk: made once with a frozen config, found again by their ID."""

import os
import secrets
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.archive import Archive
from jobs.dataset import read_manifest
from jobs.errors import InputError
from jobs.files import write_json
from jobs.prepare.stage import dataset_id
from jobs.run_dir import RunDir, Work
from jobs.stage import read_record
from pipelines.config import Config, differences, validate

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def new_id(recipe: str) -> str:
    """Return an ID that sorts by time and tells the recipe: 20260131-142530-fast-3f9a."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe}-{secrets.token_hex(2)}"


def find(work: Work, run_id: str) -> RunDir | None:
    """Return a run by its ID, or None where there is none; raise InputError for what cannot be an ID."""
    if not run_id or run_id.startswith(".") or not set(run_id) <= ID_CHARACTERS or len(run_id) > 100:
        raise InputError(f"--run-id {run_id!r}: expected letters, digits, '.', '_' and '-', not starting with '.'")
    run = RunDir(work.runs / run_id)
    with reading(work):
        return run if run.config_file.exists() else None


def latest(work: Work) -> RunDir | None:
    """Return the run whose config was written last."""
    with reading(work):
        folders = list(work.runs.iterdir()) if work.runs.exists() else []
        made = [run for run in map(RunDir, folders) if run.config_file.exists()]
        return max(made, key=lambda run: run.config_file.stat().st_mtime, default=None)


@contextmanager
def reading(work: Work) -> Iterator[None]:
    """Raise InputError where what is read inside may not be read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--work {work.path}: cannot be read ({error}); give a folder you may read") from error


def make(work: Work, run_id: str) -> RunDir:
    """Return a run's directory, private to its user; make it, and the work directory, where they are not there.

    Raises InputError where they cannot be, or are not safe.
    """
    run = RunDir(work.runs / run_id)
    require_safe(run)
    try:
        for folder in (work.path, work.runs):
            folder.mkdir(mode=0o775, parents=True, exist_ok=True)  # never for everybody, whatever the umask
        run.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--work {work.path}: cannot be made ({error.strerror}); give a folder you may write"
        ) from error
    return run


def require_safe(run: RunDir) -> None:
    """Raise InputError where we may not write, or where everybody may, who could change data, weights and results."""
    for folder in (run.work.path, run.work.runs, run.work.datasets, run.path):
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror}); give another --work") from error
        name, found = shlex.quote(str(folder)), f"mode {stat.S_IMODE(mode):04o}"
        if not stat.S_ISDIR(mode):
            raise InputError(f"{folder}: found a file, expected a folder; give another --work")
        if os.statvfs(folder).f_flag & os.ST_RDONLY:  # asked first, as no mode would help
            raise InputError(f"{folder}: found a disk mounted read-only, expected one to write to; give another --work")
        if mode & stat.S_IWOTH:
            raise InputError(f"{folder}: found {found}, writable by everybody, expected 0775 or less; chmod o-w {name}")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: found {found}, which does not let you read and write, expected 0700 or more; "
                f"chmod u+rwx {name}, or give another --work"
            )


def freeze(run: RunDir, config: Config) -> None:
    """Write a run's config. Call it under the run's lock: raises InputError where it has another one by now."""
    if run.config_file.exists():
        require_same(run, config)
    write_json(run.config_file, config.to_json())


def read_config(run: RunDir) -> Config:
    """Return the config a run was made with."""
    return validate(run.read_config(), str(run.config_file))


def require_same(run: RunDir, wanted: Config) -> None:
    """Raise InputError, listing the differences, where a run was made with another config than the one wanted.

    Where it runs (launch, spark) and what the model is judged by (gate) may change; what comes out may not.
    """
    made = read_config(run)
    where = {"launch": made.launch, "spark": made.spark, "gate": made.gate}
    different = differences(made, wanted.model_copy(update=where))
    if different:
        raise InputError(
            f"--run-id {run.run_id}: was made with another config ({'; '.join(different)}); "
            "give the same options, or another --run-id"
        )


def require_same_dataset(run: RunDir, config: Config) -> None:
    """Raise InputError, listing the archives, where a run's dataset was made from others than were fetched now."""
    try:
        made = read_record(run, "prepare").outputs
    except InputError:  # it has none
        return
    archives = {r: Archive.from_json(a) for r, a in read_record(run, "fetch").outputs["archives"].items()}
    if dataset_id(config.prepare, archives) != made.get("dataset_id"):
        raise InputError(
            f"--run-id {run.run_id}: was made from other archives ({_changed(made, archives)}); "
            "put those back, or give another --run-id"
        )


def _changed(made: Mapping[str, Any], archives: Mapping[str, Archive]) -> str:
    try:
        sources = read_manifest(Path(made["dataset"])).sources
    except (InputError, KeyError, TypeError):
        return "its dataset is gone, so it cannot be told which"
    return "; ".join(
        f"{role}: {sources[role].name} {sources[role].sha256[:12]}… there, {now.path.name} {now.sha256[:12]}… here"
        for role, now in archives.items()
        if role in sources and sources[role].sha256 != now.sha256
    )


def display(path: Path) -> str:
    """Return a path as a person at this prompt would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
