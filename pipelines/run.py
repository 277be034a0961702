"""Runs on disk: made once with a frozen config, found again by their ID."""

import secrets
import time
from pathlib import Path

from jobs.errors import InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from pipelines.config import Config, differences, validate

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def new_id(recipe: str) -> str:
    """Return an ID that sorts by time and tells the recipe: 20260131-142530-fast-3f9a."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe}-{secrets.token_hex(2)}"


def find(work: Work, run_id: str) -> RunDir | None:
    """Return a run by its ID, or None where there is none; raise InputError for what cannot be an ID."""
    if not run_id or run_id.startswith(".") or not set(run_id) <= _ID_CHARACTERS or len(run_id) > 100:
        raise InputError(f"--run-id {run_id!r}: expected letters, digits, '.', '_' and '-', not starting with '.'")
    run = RunDir(work.runs / run_id)
    return run if run.config_file.exists() else None


def latest(work: Work) -> RunDir | None:
    """Return the run whose config was written last."""
    configs = sorted(work.runs.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    return RunDir(configs[-1].parent) if configs else None


def create(work: Work, run_id: str, config: Config) -> RunDir:
    """Make a run directory, private to its user, with the config frozen in it."""
    run = RunDir(work.runs / run_id)
    make_work(work)
    run.path.mkdir(mode=0o700, exist_ok=True)
    write_json(run.config_file, config.to_json())
    return run


def make_work(work: Work) -> None:
    """Make the work directory; raise InputError where it cannot be written to."""
    try:
        work.runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--work {work.path}: cannot be made ({error.strerror}); give a folder you may write"
        ) from error


def read_config(run: RunDir) -> Config:
    """Return the config a run was made with."""
    return validate(run.read_config(), str(run.config_file))


def require_same(run: RunDir, wanted: Config) -> None:
    """Raise InputError, listing the differences, where a run was made with another config than the one wanted.

    Where it runs may change (launch, spark); what comes out may not.
    """
    made = read_config(run)
    where = {"launch": made.launch, "spark": made.spark}
    different = differences(made, wanted.model_copy(update=where))
    if different:
        raise InputError(
            f"--run-id {run.run_id}: was made with another config ({'; '.join(different)}); "
            "give the same options, or another --run-id"
        )


def display(path: Path) -> str:
    """Return a path as a person at this prompt would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
