"""The batch script of a stage, as text. Nothing is submitted here: see sbatch(1) for every option."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm.site import JobStage, Resources, Site, TrainResources
from jobs.errors import InputError

SCRATCH = "IDXTRAIN_SCRATCH"  # a folder on the node's own disk, in which each job makes one for itself
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job to submit.

    `name`: in the queue. `about`: for the script's comment. `log`: where its output goes, a pattern of sbatch's.
    `command`: its argv. `array`: the number of tasks of a job array; 0: no array. `at_once`: how many of them may run
    at a time; 0: any number.
    """

    name: str
    about: str
    log: str
    command: tuple[str, ...]
    array: int = 0
    at_once: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for text that could end a line of the script, as a shell would run what follows."""
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"job {self.name!r}: expected letters, digits, '.', '_' and '-'; fix: give another --run-id"
            )
        for text in (self.about, self.log, *self.command):
            if not text.isprintable():
                raise InputError(
                    f"job {self.name}: found {text!r}, expected no line breaks or control characters; fix: rename it"
                )


def stage_job(stage: JobStage, folder: Path, run_id: str, command: tuple[str, ...]) -> Job:
    """Return the job of a run's stage. `folder`: where scripts and logs go."""
    log = f"{escaped(folder)}/{stage}-%j.out"
    return Job(name=job_name(run_id, stage), about=f"{stage} of run {run_id}", log=log, command=command)


def job_name(run_id: str, stage: str) -> str:
    """Return the name of a run's job in the queue."""
    return f"idxtrain.{run_id}.{stage}"


def batch_script(site: Site, stage: JobStage, job: Job) -> str:
    """Return the script for `sbatch`."""
    lines = ["#!/bin/bash -l", f"# {job.about}; written by idxtrain"]
    lines += [f"#SBATCH {option}" for option in _options(site, site.resources(stage), job)]
    # -u comes last: `module` is a function of the login shell (-l), and reads variables that are not set.
    modules = [f"module load {shlex.join(site.modules)}"] if site.modules else []
    lines += ["set -e", *modules, *site.setup, "set -u"]
    # In double quotes bash expands $NAME. A site's text has nothing else that bash would expand: deploy.slurm.site.
    lines += [f'export {SCRATCH}="{site.scratch}"']
    lines += [f'export {name}="{value}"' for name, value in site.environment.items()]
    # exec: Slurm's signals to the batch script reach the process that handles them.
    lines += [f"exec {shlex.join(job.command)}"]
    return "\n".join(lines) + "\n"


def submission(script: Path, after: str | None, after_any: bool = False) -> list[str]:
    """Return the argv that submits a script.

    `after`: the job to wait for, which must succeed. `after_any`: it may also fail.
    """
    kind = "afterany" if after_any else "afterok"
    dependency = [f"--dependency={kind}:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *dependency, str(script)]


def _options(site: Site, resources: Resources, job: Job) -> Iterator[str]:
    yield f"--job-name={job.name}"
    yield f"--output={_quoted(job.log)}"
    yield "--open-mode=append"  # a requeued job continues its log
    yield "--requeue" if site.requeue else "--no-requeue"
    if job.array:
        yield f"--array=0-{job.array - 1}{f'%{job.at_once}' if job.at_once else ''}"
    for name in ("partition", "account", "qos"):
        value = getattr(resources, name) or getattr(site, name)
        if value:
            yield f"--{name}={value}"
    if resources.time:
        yield f"--time={resources.time}"
    yield f"--nodes={resources.nodes}"
    yield f"--ntasks-per-node={resources.ranks_per_node if isinstance(resources, TrainResources) else 1}"
    if resources.cpus:
        yield f"--cpus-per-task={resources.cpus}"
    if resources.memory:
        yield f"--mem={resources.memory}"
    if resources.gpus_per_node:
        yield f"--gpus-per-node={resources.gpu_type + ':' if resources.gpu_type else ''}{resources.gpus_per_node}"
    if isinstance(resources, TrainResources):
        yield f"--signal=B:USR1@{resources.warn_seconds}"
    yield from (*site.options, *resources.options)


def escaped(path: Path) -> str:
    """Return a path to use within a `log` pattern."""
    return str(path).replace("%", "%%")  # sbatch(1), FILENAME PATTERN


def _quoted(text: str) -> str:
    """Return a value as sbatch reads it from an #SBATCH line."""
    if not any(c in text for c in " \t'\"\\#"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
