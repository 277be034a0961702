"""Evaluate a finished run's model on other data than its own test split: a pair of archives is enough.

The result is in `RUN/evaluations/NAME`, laid out as a run: config.json, metrics.json, predictions.parquet, report.html
and logs. NAME is the data set's name. The run itself stays as it is. Evaluating again replaces the result.
"""

import shutil
from pathlib import Path
from typing import Any

from deploy.launcher.launch import Launch
from jobs.archive import TEST, TRAINING
from jobs.errors import InputError, ResumableError
from jobs.fetch.config import FetchConfig
from jobs.files import write_json
from jobs.python import module_command
from jobs.run_dir import RunDir
from pipelines import runs
from pipelines.config import Config, assign, validate
from pipelines.lock import RunLock
from pipelines.names import safe_name
from pipelines.request import Options, absolute, location, own_name
from pipelines.stages import run_stage

# What may differ from the run's config: how these archives are read, and how much memory a forward pass takes.
_KEYS = ("evaluate.batch_size", "prepare.label_column", "prepare.orientation", "prepare.unseen_classes")


def asks_for_other_data(options: Options, run: RunDir) -> bool:
    """Return whether the options name archives that are not those of the run."""
    made = runs.read_config(run).fetch
    given = {role: absolute(path) for role, path in options.archives.items()}
    return bool(
        (options.data and location(options.data) != made.data)
        or any(path != getattr(made, role) for role, path in given.items())
    )


def config_of_evaluation(options: Options, run: RunDir) -> Config:
    """Return the run's config with the archives, and the keys that may differ, of the options. Raises InputError."""
    for option, value in (("--recipe", options.recipe), ("--seed", options.seed), ("--np", options.np)):
        if value is not None:
            raise InputError(f"{option}: found {value}, expected none to evaluate on other data; fix: leave it out")
    for role in TRAINING:
        if role in options.archives:
            option = f"--{role.replace('_', '-')}"
            raise InputError(f"{option}: found a file, expected none to evaluate on; fix: leave it out")
    values: dict[str, Any] = runs.read_config(run).to_json()
    values["fetch"] = {
        "dataset": _name(options),
        "data": location(options.data) or "",
        "class_names": absolute(options.classes) or "",
        **{role: absolute(path) for role, path in options.archives.items()},
    }
    # Nothing else of the run's section applies to these archives: they may lie otherwise, and have no groups.
    values["prepare"] = {"unseen_classes": values["prepare"]["unseen_classes"]}
    values["evaluate"] = {"batch_size": values["evaluate"]["batch_size"]}
    for key in assign(values, options.assignments, "--set", "evaluate.batch_size=100"):
        if key not in _KEYS:
            raise InputError(
                f"--set {key}: cannot differ from the run's, expected one of {', '.join(_KEYS)} to evaluate on other "
                "data; fix: leave it out"
            )
    return validate(values, "--run-id", dict.fromkeys(_KEYS, "--set"))


def _name(options: Options) -> str:
    """Return the name of the data: --dataset, that of the folder, or that of the images' file."""
    files = [options.archives[role] for role in TEST if role in options.archives]
    return options.dataset or own_name(options) or safe_name(files[0].name.partition(".")[0], "data", 100)


def folder(run: RunDir, config: Config) -> RunDir:
    """Return the evaluation's folder, laid out as a run."""
    return RunDir(run.evaluations / config.fetch.dataset)


def launches(evaluation: RunDir) -> dict[str, Launch]:
    """Return how the stages of an evaluation start."""
    modules = {"fetch": "jobs.fetch.test_pair", "prepare": "jobs.prepare.test_pair", "evaluate": "jobs.evaluate"}
    return {stage: Launch(module_command(module, str(evaluation.path))) for stage, module in modules.items()}


def evaluate_elsewhere(run: RunDir, config: Config) -> RunDir:
    """Evaluate the run's model on the archives of a config; return the evaluation's folder.

    Raises ReportedError if a stage fails.
    """
    evaluation = folder(run, config)
    dataset = evaluation.path / "dataset"
    earlier = evaluation.path.with_name(f".{evaluation.path.name}.earlier")
    with RunLock(run):
        if earlier.exists():  # a killed evaluation has left it
            _restore(earlier, evaluation)
        if evaluation.path.exists():
            _require_same_data(evaluation, config)
            evaluation.path.rename(earlier)
        evaluation.path.mkdir(mode=0o700, parents=True)
        write_json(evaluation.config_file, config.to_json())
        try:
            for stage, how in launches(evaluation).items():
                if run_stage(evaluation, stage, how) and stage != "evaluate":
                    raise ResumableError(f"{stage}: finished, then stopped on request; the same command starts again")
        finally:
            shutil.rmtree(dataset, ignore_errors=True)
            _restore(earlier, evaluation)
    return evaluation


def _restore(earlier: Path, evaluation: RunDir) -> None:
    """Keep the new evaluation if it has a result, else the earlier one, if there is one."""
    if evaluation.metrics_file.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        return
    shutil.rmtree(evaluation.path, ignore_errors=True)
    if earlier.exists():
        earlier.rename(evaluation.path)


def _require_same_data(evaluation: RunDir, config: Config) -> None:
    """Raise InputError if there is an evaluation of this name on archives elsewhere."""
    there, here = (_archives(each.fetch) for each in (runs.read_config(evaluation), config))
    if there != here:
        raise InputError(
            f"{evaluation.path}: found an evaluation on {' and '.join(there)}, expected one on {' and '.join(here)}; "
            "fix: name this one with --dataset, or remove that one"
        )


def _archives(fetch: FetchConfig) -> list[str]:
    return [path for path in (fetch.data, *(getattr(fetch, role) for role in TEST)) if path]
