"""Runs on disk: made once with a frozen config, found by their ID."""

import os
import secrets
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.dataset import Source, read_manifest
from jobs.errors import InputError
from jobs.files import write_json
from jobs.prepare.inputs import Inputs
from jobs.records import FetchOutputs
from jobs.run_dir import RunDir, Work
from jobs.stage import read_outputs, read_record
from pipelines.config import Config, differences, validate
from pipelines.names import safe_name

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST_ID = 100
_SECOND = 1_000_000_000  # ns; the finest resolution of file dates that every file system has


def _config_file(run: RunDir) -> Path:
    return run.config_file


def new_id(recipe: str) -> str:
    """Return a run ID of local time, recipe and random digits: 20260131-142530-fast-3f9a."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe}-{secrets.token_hex(2)}"


def find(work: Work, run_id: str) -> RunDir | None:
    """Return the run with this ID, or None; raise InputError for an invalid ID."""
    if not run_id or run_id.startswith(".") or not set(run_id) <= ID_CHARACTERS or len(run_id) > _LONGEST_ID:
        expected = "expected letters, digits, '.', '_' and '-', not starting with '.'"
        with suppress(OSError, ValueError):  # too long for a file name, or not a file name
            if Path(run_id).name == run_id and RunDir(work.runs / run_id).config_file.exists():
                older, newer = (
                    shlex.quote(str(work.runs / n)) for n in (run_id, safe_name(run_id, "run", _LONGEST_ID))
                )
                raise InputError(
                    f"--run-id {run_id!r}: found a run of an earlier version, {expected}; fix: mv {older} {newer}"
                )
        raise InputError(f"--run-id {run_id!r}: {expected}, at most {_LONGEST_ID} characters")
    run = RunDir(work.runs / run_id)
    with reading(work):
        return run if run.config_file.exists() else None


def all_of(work: Work) -> list[RunDir]:
    """Return all runs in a work folder, in no order; raise InputError where it cannot be read."""
    with reading(work):
        return [RunDir(folder) for folder in work.runs.iterdir()] if work.runs.exists() else []


def latest(work: Work, file_of: Callable[[RunDir], Path] = _config_file) -> RunDir | None:
    """Return the run whose file `file_of` (its config by default) was written last, or None.

    Unreadable runs, such as other users' in a shared folder, are skipped.
    """
    newest = max(all_of(work), key=lambda run: written(file_of(run)), default=None)
    return newest if newest and written(file_of(newest)) >= 0 else None


def written(file: Path) -> int:
    """Return when a file was last written, in ns since 1970; −1 if it is missing or unreadable."""
    try:
        return file.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return -1


def date_last(run: RunDir, file_of: Callable[[RunDir], Path]) -> None:
    """Give a file just written a later date than the same file of every other run, even if the clock was set back.

    These dates decide which run is the newest. IDs cannot: they show the local time, which may repeat itself.
    """
    file, before = file_of(run), max(written(file_of(RunDir(folder))) for folder in run.path.parent.iterdir())
    if before > written(file):
        os.utime(file, ns=(before + _SECOND, before + _SECOND))


@contextmanager
def reading(work: Work) -> Iterator[None]:
    """Raise InputError where the body may not read the work folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--work {work.path}: cannot be read ({error}); fix: give a folder you may read") from error


def make(work: Work, run_id: str) -> RunDir:
    """Make a run's folder, private to its user, and the work folder, unless they exist; return the run.

    Raises InputError where they cannot be made or are not safe.
    """
    run = RunDir(work.runs / run_id)
    require_safe(run)
    try:
        for folder in (work.path, work.runs):
            folder.mkdir(mode=0o775, parents=True, exist_ok=True)  # never writable by everyone, whatever the umask
        run.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--work {work.path}: cannot be made ({error.strerror}); fix: give a folder you may write"
        ) from error
    _make_private(run)
    return run


def _make_private(run: RunDir) -> None:
    """Remove other users' permissions from an existing run's folder, which may be handmade or copied."""
    mode = stat.S_IMODE(run.path.stat().st_mode)
    if not mode & 0o077:
        return
    try:
        run.path.chmod(mode & ~0o077)
    except PermissionError:
        raise InputError(
            f"{run.path}: found mode {mode:04o} and another owner, expected 0700 and you; fix: give another --run-id"
        ) from None


def require_safe(run: RunDir) -> None:
    """Raise InputError for a folder that this user may not write, or that everyone may.

    Whoever may write there could change data, weights and results.
    """
    work = run.work
    for folder in (work.path, work.runs, work.datasets, work.locks, run.path):
        mode = _safe_mode(folder, to_write=True)
        if mode is not None and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: found mode {mode:04o}, which does not let you read and write, expected 0700 or more; "
                f"fix: chmod u+rwx {shlex.quote(str(folder))}, or give another --work"
            )
    # These may belong to another user, who alone may write them.
    for folder in (work.archives, work.segments, work.retrains, work.sweeps, work.registry, work.bin):
        _safe_mode(folder)
    for folder in _folders_in(work.archives, work.datasets, work.segments):
        _safe_mode(folder)


def _safe_mode(folder: Path, to_write: bool = False) -> int | None:
    """Return a folder's mode, or None where there is no folder; raise InputError where everyone may write into it.

    `to_write`: also raise InputError where its disk is mounted read-only.
    """
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); fix: give another --work") from error
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{folder}: found a file, expected a folder; fix: give another --work")
    if to_write and os.statvfs(folder).f_flag & os.ST_RDONLY:  # checked first, as no chmod would help
        raise InputError(f"{folder}: found a disk mounted read-only, expected a writable one; fix: give another --work")
    if mode & stat.S_IWOTH:
        raise InputError(
            f"{folder}: found mode {mode:04o}, writable by everyone, expected 0775 or less; "
            f"fix: chmod -R o-w {shlex.quote(str(folder))}"
        )
    return mode


def _folders_in(*folders: Path) -> Iterable[Path]:
    for folder in folders:
        with suppress(FileNotFoundError, PermissionError), os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_dir())


def freeze(run: RunDir, config: Config) -> None:
    """Write a run's config, under the run's lock; raise InputError where the run has another config by now."""
    if run.config_file.exists():
        require_same(run, config)
    write_json(run.config_file, config.to_json())
    date_last(run, _config_file)


def read_config(run: RunDir) -> Config:
    """Return the config a run was made with."""
    made = dict(run.read_config())  # earlier versions took any text for a recipe's name
    if isinstance(made.get("recipe"), str):
        made["recipe"] = safe_name(made["recipe"], "recipe", 60)
    return validate(made, str(run.config_file))


def require_same(run: RunDir, wanted: Config) -> None:
    """Raise InputError, listing the differences, where a run's config is not the wanted one.

    Where it runs (launch, spark) and how the gate judges it (gate) may change; what it computes may not.
    """
    made = read_config(run)
    where = {"launch": made.launch, "spark": made.spark, "gate": made.gate}
    different = differences(made, wanted.model_copy(update=where))
    if different:
        raise InputError(
            f"--run-id {run.run_id}: was made with another config ({'; '.join(different)}); "
            "fix: give the same options, or another --run-id"
        )


def require_same_dataset(run: RunDir, config: Config) -> None:
    """Raise InputError, listing the archives, where a run's dataset was made from other archives than fetch now has."""
    try:
        made = read_record(run, "prepare").outputs
    except InputError:  # it has no dataset yet
        return
    fetched = read_outputs(run, FetchOutputs)
    inputs = Inputs(config.prepare, fetched.archives, fetched.description)
    if inputs.dataset_id != made.get("dataset_id"):
        raise InputError(
            f"--run-id {run.run_id}: was made from other archives ({_changed(made, inputs.sources)}); "
            "fix: restore them, or give another --run-id"
        )


def _changed(made: Mapping[str, Any], now: Mapping[str, Source]) -> str:
    try:
        sources = read_manifest(Path(made["dataset"])).sources
    except (InputError, KeyError, TypeError):
        return "its dataset is missing, so the differences are unknown"
    changed = [
        f"{role}: {sources[role].name} {sources[role].sha256[:12]}… in the run, {each.name} {each.sha256[:12]}… now"
        for role, each in now.items()
        if role in sources and sources[role].sha256 != each.sha256
    ]
    return "; ".join(changed) or "their description or number differs"
