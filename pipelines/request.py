"""From the options of the command line to a run and its config."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from pipelines import runs
from pipelines.config import DEFAULT_RECIPE, Config, compose, data_set_name, validate
from pipelines.names import WORK

# Categories of Unicode: control characters, bytes that are not UTF-8, line and paragraph separators.
_UNFIT = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that were given; None for those that were not."""

    data: Path | None = None
    dataset: str | None = None
    recipe: str | None = None
    np: int | None = None
    assignments: tuple[str, ...] = ()
    seed: int | None = None
    spark_master: str | None = None
    work: Path = WORK
    run_id: str | None = None


def work_dir(options: Options) -> Work:
    """Return the work folder, with an absolute path; raise InputError for a path that some tool cannot hold.

    A crontab or batch script allows no line break, JSON only UTF-8, and Keras reads a backslash as a slash.
    """
    path = options.work.expanduser().resolve()
    unfit = next((c for c in str(path) if c == "\\" or unicodedata.category(c) in _UNFIT), None)
    if unfit is not None:
        raise InputError(
            f"--work {path}: found {unfit!r} in its path, expected UTF-8 without backslashes or control characters; "
            "fix: rename the folder, or give another --work"
        )
    return Work(path)


def find_run(options: Options) -> RunDir | None:
    """Return the run of --run-id, or None if it does not exist yet."""
    return runs.find(work_dir(options), options.run_id) if options.run_id else None


def config_of(options: Options, existing: RunDir | None) -> Config:
    """Return the config that the options describe. An existing run's config fills in what they leave out.

    Raises InputError where the options contradict the existing run's config.
    """
    if existing is None:
        return _compose(options)
    if any((options.data, options.dataset, options.recipe, options.assignments, options.seed is not None)):
        runs.require_same(existing, _compose(options))
    # A run may resume with another number of ranks and another Spark.
    values = runs.read_config(existing).to_json()
    if options.np is not None:
        values["launch"]["np"] = options.np
    if options.spark_master is not None:
        values["spark"]["master"] = options.spark_master
    return validate(values, "--run-id")


def _compose(options: Options) -> Config:
    data = options.data.expanduser().resolve() if options.data else None
    settings = {
        "fetch.data": str(data) if data else None,
        "fetch.dataset": options.dataset or (data_set_name(data) if data else None),
        "launch.np": options.np,
        "seed": options.seed,
        "spark.master": options.spark_master,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    return compose(options.recipe or DEFAULT_RECIPE, given, options.assignments)


def open_run(options: Options, existing: RunDir | None, config: Config) -> RunDir:
    """Return the directory of the existing run, or of a new one. Its config is written later, under the run's lock."""
    run_id = existing.run_id if existing else options.run_id or runs.new_id(config.recipe)
    return runs.make(work_dir(options), run_id)


def existing_run(options: Options) -> RunDir:
    """Return the run of --run-id, or the latest run; raise InputError where there is none."""
    work = work_dir(options)
    run = find_run(options) if options.run_id else runs.latest(work)
    if run is None:
        which = (
            f"--run-id {options.run_id}: found no such run" if options.run_id else f"--work {work.path}: found no run"
        )
        raise InputError(f"{which} in {work.runs}; fix: train one with `idxtrain run`")
    return run


def trained_run(options: Options) -> RunDir:
    """Return the run to evaluate, of --run-id or the latest; raise InputError where it is not trained."""
    run = existing_run(options)
    if not is_done(run, "train"):
        raise InputError(f"run {run.run_id}: is not trained; fix: run `idxtrain train --run-id {run.run_id}` first")
    return run
