"""From the options of the command line to a run and its config."""

import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs.archive import TEST, TRAINING, Role
from jobs.errors import IdxtrainError, InputError
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from pipelines import runs
from pipelines.config import DEFAULT_RECIPE, Config, compose, data_set_name, validate
from pipelines.lock import LockedError
from pipelines.names import WORK
from pipelines.straggler import times_file

_REMOTE = re.compile(r"(s3a?|hdfs):/(?=[^/])")

# Categories of Unicode: control characters, bytes that are not UTF-8, line and paragraph separators.
_UNFIT = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that were given; None for those that were not. `archives`: named by --train-images and its kind."""

    data: Path | None = None
    dataset: str | None = None
    archives: Mapping[Role, Path] = field(default_factory=dict)
    classes: Path | None = None
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
    given = (options.data, options.dataset, options.archives, options.classes, options.recipe, options.assignments)
    if any(given) or options.seed is not None:
        runs.require_same(existing, _compose(options))
    # A run may resume with another number of ranks and another Spark.
    values = runs.read_config(existing).to_json()
    if options.np is not None:
        values["launch"]["np"] = options.np
    if options.spark_master is not None:
        values["spark"]["master"] = options.spark_master
    return validate(values, "--run-id")


def _compose(options: Options) -> Config:
    _require_pairs(options)
    settings = {
        "fetch.data": location(options.data),
        "fetch.dataset": options.dataset or own_name(options),
        **{f"fetch.{role}": absolute(path) for role, path in options.archives.items()},
        "fetch.class_names": absolute(options.classes),
        "launch.np": options.np,
        "seed": options.seed,
        "spark.master": options.spark_master,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    return compose(options.recipe or DEFAULT_RECIPE, given, options.assignments)


def _require_pairs(options: Options) -> None:
    """Raise InputError for one archive of a pair: without a folder or a name, the default data set has no other one."""
    if options.data or options.dataset or any(each.strip().startswith("fetch.data") for each in options.assignments):
        return
    for pair in (TRAINING, TEST):
        lacking = [role for role in pair if role not in options.archives]
        if len(lacking) == 1:
            option = f"--{lacking[0].replace('_', '-')}"
            raise InputError(
                f"{option}: missing, expected both archives of a pair; fix: add {option} F, or name the data set of "
                "the other one as --dataset"
            )


def absolute(path: Path | None) -> str | None:
    """Return an option's path as the config has it: absolute, without `~`."""
    return str(path.expanduser().resolve()) if path else None


def location(data: Path | None) -> str | None:
    """Return --data as the config has it: an absolute path, or the URL, of which a path has lost a slash."""
    if data is not None and (match := _REMOTE.match(str(data))):
        return f"{match[1]}://{str(data)[match.end() :]}"
    return absolute(data)


def own_name(options: Options) -> str | None:
    """Return the name of the user's own data: that of the folder; None where it is a data set of the catalog."""
    if options.data:
        return data_set_name(options.data.expanduser().resolve())
    training = [path for role, path in options.archives.items() if role in TRAINING]
    return data_set_name(training[0].expanduser().resolve().parent) if len(training) == len(TRAINING) else None


def check_archives(config: Config) -> None:
    """Raise InputError where fetch would, by the user's archives, before there is a run."""
    from jobs.fetch.check import check
    from jobs.fetch.locate import locate
    from jobs.object_store import is_remote

    if is_remote(config.fetch.data):
        return  # not before fetch has copied them
    located = locate(config.fetch)
    if located.archives:
        check(located, located.archives, config.prepare.labels)


def open_run(options: Options, existing: RunDir | None, config: Config) -> RunDir:
    """Return the directory of the existing run, or of a new one. Its config is written later, under the run's lock."""
    return runs.make(work_dir(options), _run_id(options, existing, config))


def _run_id(options: Options, existing: RunDir | None, config: Config) -> str:
    return existing.run_id if existing else options.run_id or runs.new_id(config.recipe)


@contextmanager
def opened_run(options: Options, existing: RunDir | None, config: Config) -> Iterator[RunDir]:
    """Yield what `open_run` returns. A new run whose input is refused before it has a dataset is removed again."""
    work, run_id = work_dir(options), _run_id(options, existing, config)
    with runs.reading(work):
        is_new = not (work.runs / run_id).exists()
    run = runs.make(work, run_id)
    try:
        yield run
    except IdxtrainError as error:
        is_refused = error.exit_code == InputError.exit_code and not isinstance(error, LockedError)
        if is_refused and is_new and not run.record_file("prepare").exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


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


def recorded_run(options: Options) -> RunDir:
    """Return the run of --run-id, or the latest one that trained; raise InputError where there is none."""
    if options.run_id:
        return existing_run(options)
    work = work_dir(options)
    run = runs.latest(work, times_file)
    if run is None:
        raise InputError(f"--work {work.path}: found no run that trained in {work.runs}; fix: train one first")
    return run


def evaluated_run(options: Options) -> RunDir:
    """Return the run that was evaluated last; raise InputError where there is none."""
    work = work_dir(options)
    run = runs.latest(work, lambda run: run.metrics_file)
    if run is None:
        raise InputError(f"--work {work.path}: found no evaluated run in {work.runs}; fix: `idxtrain run` makes one")
    return run


def trained_run(options: Options) -> RunDir:
    """Return the run to evaluate, of --run-id or the latest; raise InputError where it is not trained."""
    run = existing_run(options)
    if not is_done(run, "train"):
        raise InputError(f"run {run.run_id}: is not trained; fix: run `idxtrain train --run-id {run.run_id}` first")
    return run
