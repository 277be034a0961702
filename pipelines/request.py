"""From the options of the command line to the run and the config that they mean."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from pipelines import runs
from pipelines.config import DEFAULT_RECIPE, Config, compose, data_set_name, validate

# Categories of Unicode: control characters, bytes that are not UTF-8, and the two further breaks of a line.
_UNFIT = ("Cc", "Cs", "Zl", "Zp")


WORK = Path("work")


@dataclass(frozen=True)
class Options:
    """What the command line said; None where it said nothing."""

    data: Path | None = None
    dataset: str | None = None
    recipe: str | None = None
    np: int | None = None
    assignments: tuple[str, ...] = ()
    seed: int | None = None
    spark_master: str | None = None
    work: Path = WORK
    run_id: str | None = None


def place(options: Options) -> Work:
    """Return the work directory, as an absolute path; raise InputError where its path cannot be used everywhere.

    A line of a crontab or batch script holds no line break, JSON no bytes that are not UTF-8, and Keras takes a
    backslash for a slash.
    """
    path = options.work.expanduser().resolve()
    unfit = next((c for c in str(path) if c == "\\" or unicodedata.category(c) in _UNFIT), None)
    if unfit is not None:
        raise InputError(
            f"--work {path}: found {unfit!r} in its path, expected no backslash or control character, and UTF-8; "
            "fix: rename the folder, or give another --work"
        )
    return Work(path)


def find_run(options: Options) -> RunDir | None:
    """Return the run that --run-id names, if it exists."""
    return runs.find(place(options), options.run_id) if options.run_id else None


def config_of(options: Options, existing: RunDir | None) -> Config:
    """Return the config that the options describe; that of an existing run where they say nothing of it.

    Raises InputError where they describe another config than the existing run's.
    """
    if existing is None:
        return _compose(options)
    if any((options.data, options.dataset, options.recipe, options.assignments, options.seed is not None)):
        runs.require_same(existing, _compose(options))
    # On how many ranks and by which Spark a run goes on is free.
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
    """Return the existing run's directory, or make it. Its config is written under the run's lock."""
    run_id = existing.run_id if existing else options.run_id or runs.new_id(config.recipe)
    return runs.make(place(options), run_id)


def existing_run(options: Options) -> RunDir:
    """Return the run that is named, else the latest; raise InputError where there is none."""
    where = place(options)
    found = find_run(options) if options.run_id else runs.latest(where)
    if found is None:
        what = f"run {options.run_id}" if options.run_id else "any run"
        raise InputError(f"found no trace of {what} in {where.runs}; train one with `idxtrain run`")
    return found


def trained_run(options: Options) -> RunDir:
    """Return the run to evaluate: the one named, else the latest; raise InputError where it is not trained."""
    found = existing_run(options)
    if not is_done(found, "train"):
        raise InputError(f"run {found.run_id}: is not trained; run `idxtrain train --run-id {found.run_id}` first")
    return found
