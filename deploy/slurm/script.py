"""A stage's batch script, as text. Nothing is submitted here: see sbatch(1) for every option."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm.site import JobStage, Resources, Site, TrainResources
from jobs.errors import InputError

SCRATCH = "IDXTRAIN_SCRATCH"  # a folder of the node's own, in which each job makes one for itself
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Job:
    """One job to submit. `name`: in the queue; `log`: where its output goes, by sbatch's pattern; `command`: the argv.

    `array`: so many tasks of an array, 0: no array.
    """

    name: str
    about: str
    log: str
    command: tuple[str, ...]
    array: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for what could end a line of the script, and begin one that a shell runs."""
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
    return Job(job_name(run_id, stage), f"{stage} of run {run_id}", f"{escaped(folder)}/{stage}-%j.out", command)


def job_name(run_id: str, stage: str) -> str:
    """Return how a run's job is called in the queue."""
    return f"idxtrain.{run_id}.{stage}"


def batch_script(site: Site, stage: JobStage, job: Job) -> str:
    """Return the script that `sbatch` is given."""
    lines = ["#!/bin/bash -l", f"# {job.about}; written by idxtrain"]
    lines += [f"#SBATCH {option}" for option in _options(site, site.resources(stage), job)]
    # -l, and -u only after it: `module` is a function of the login shell, which reads variables that are not set.
    lines += ["set -e", *([f"module load {shlex.join(site.modules)}"] if site.modules else []), "set -u"]
    # In double quotes bash expands $NAME: a site's text holds nothing else that it would, see deploy.slurm.site.
    lines += [f'export {SCRATCH}="{site.scratch}"']
    lines += [f'export {name}="{value}"' for name, value in site.environment.items()]
    # exec: signals that Slurm sends to the batch script go to the process that knows what to do.
    lines += [f"exec {shlex.join(job.command)}"]
    return "\n".join(lines) + "\n"


def submission(script: Path, after: str | None, however: bool = False) -> list[str]:
    """Return the argv that submits a script. `after`: the job that has to end before, well or, if so said, however."""
    kind = "afterany" if however else "afterok"
    depends = [f"--dependency={kind}:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *depends, str(script)]


def _options(site: Site, wanted: Resources, job: Job) -> Iterator[str]:
    yield f"--job-name={job.name}"
    yield f"--output={_quoted(job.log)}"
    yield "--open-mode=append"  # a job that is requeued goes on writing
    yield "--requeue" if site.requeue else "--no-requeue"
    if job.array:
        yield f"--array=0-{job.array - 1}"
    for name in ("partition", "account", "qos"):
        value = getattr(wanted, name) or getattr(site, name)
        if value:
            yield f"--{name}={value}"
    if wanted.time:
        yield f"--time={wanted.time}"
    yield f"--nodes={wanted.nodes}"
    yield f"--ntasks-per-node={wanted.ranks_per_node if isinstance(wanted, TrainResources) else 1}"
    if wanted.cpus:
        yield f"--cpus-per-task={wanted.cpus}"
    if wanted.memory:
        yield f"--mem={wanted.memory}"
    if wanted.gpus_per_node:
        yield f"--gpus-per-node={wanted.gpu_type + ':' if wanted.gpu_type else ''}{wanted.gpus_per_node}"
    if isinstance(wanted, TrainResources):
        yield f"--signal=B:USR1@{wanted.warn_seconds}"
    yield from (*site.options, *wanted.options)


def escaped(path: Path) -> str:
    """Return a path as a part of a pattern for `log`."""
    return str(path).replace("%", "%%")  # sbatch(1), FILENAME PATTERN


def _quoted(text: str) -> str:
    """Return a value as sbatch reads it from an #SBATCH line."""
    if not any(c in text for c in " \t'\"\\#"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
