"""idxtrain submit: the pipeline as a chain of Slurm jobs, each of which starts when the one before has succeeded."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.slurm import commands, queue, script
from deploy.slurm.site import JOB_STAGES, JobStage, Site, names, read, validate
from deploy.staging.step import stage_step
from jobs.errors import IdxtrainError, InputError
from jobs.files import write_json, write_text
from jobs.object_store import is_remote
from jobs.python import module_command
from jobs.run_dir import RunDir
from jobs.train.preflight import check_config
from pipelines import request, runs
from pipelines.config import Config, assign
from pipelines.lock import RunLock
from pipelines.request import Options
from pipelines.slurm.container import binds, require_visible
from pipelines.slurm.jobs import SlurmJobs
from pipelines.slurm.measured import as_measured


def load_site(
    name: str | None, assignments: Sequence[str], earlier: RunDir | None = None, measured: RunDir | None = None
) -> Site:
    """Return a site by name or file, changed by assignments as --site-set takes them.

    `earlier`: without a name, the run whose site it is. Raises InputError if that run was not submitted. `measured`: a
    run whose use of CPUs, memory and time decides what the jobs request, where no assignment does.
    """
    jobs = SlurmJobs(earlier) if earlier else None
    if name is None and (jobs is None or not jobs.site_file.exists()):
        raise InputError(
            f"--site: found none, expected a site's name or file; fix: choose one of {', '.join(names())}, or write "
            "your own (`idxtrain config site`)"
        )
    values: dict[str, Any] = jobs.site().model_dump(mode="json") if name is None and jobs else read(str(name))
    origin = "--site-set" if name is None else f"--site {name}"
    if measured:
        plain = deepcopy(values)
        assign(plain, assignments, "--site-set", "train.nodes=4")
        proposed = as_measured(measured, validate(plain, origin))
        print(f"requested as run {measured.run_id} used: {' '.join(proposed)}", file=sys.stderr)
        assign(values, proposed, "--site-set", "train.nodes=4")
    assign(values, assignments, "--site-set", "train.nodes=4")
    return validate(values, origin)


def config_for(site: Site, options: Options, existing: RunDir | None) -> Config:
    """Return the run's config with the site's number of ranks; raise InputError where it cannot train there."""
    if options.np is not None and options.np != site.ranks:
        raise InputError(
            f"--np {options.np}: found {site.train.nodes} × {site.train.ranks_per_node} ranks in the site; "
            "fix: set --site-set train.nodes=… or train.ranks_per_node=… instead"
        )
    config = request.config_of(replace(options, np=site.ranks), existing)
    require_visible(site, request.work_dir(options).path, config)
    check_config(config.train, site.ranks)
    if config.fetch.data and not is_remote(config.fetch.data) and not Path(config.fetch.data).is_dir():
        raise InputError(f"--data {config.fetch.data}: found no such folder; fix: give the folder of your archives")
    return config


def batch_scripts(site: Site, run: RunDir) -> dict[JobStage, str]:
    """Return the batch script of each stage."""
    return {
        stage: script.batch_script(site, stage, script.stage_job(stage, run.slurm, run.run_id, job_command(stage, run)))
        for stage in JOB_STAGES
    }


def job_command(stage: str, run: RunDir) -> tuple[str, ...]:
    """Return the argv of a stage's job."""
    return module_command("pipelines.slurm.job", stage, str(run.path))


def preview(site: Site, run: RunDir, config: Config) -> str:
    """Return everything that `submit` would submit, and how prepare and the training would start."""
    jobs = SlurmJobs(run)
    parts, before = [], None
    for stage, text in batch_scripts(site, run).items():
        line = " ".join(script.submission(jobs.script_file(stage), f"ID_OF_{before.upper()}" if before else None))
        parts.append(f"# {line}\n{text}")
        before = stage
    hosts = [f"NODE{n}" for n in range(1, site.train.nodes + 1)]
    python = "STAGED_PYTHON" if "environment" in site.stage else sys.executable
    if site.stage:
        copies = shlex.join(stage_step(site.train.nodes))
        parts.append(
            f"# before, each job copies its {' and '.join(site.stage)} to its nodes; the training with\n# {copies}\n"
        )
    for name, value in binds(site, config, site.scratch, {}).items():
        parts.append(f"# containers start with\n# {name}={value}\n")
    prepare_python = python if commands.spark_is_ours(site, config.spark.master) else sys.executable
    prepare = commands.prepare_launch(site, config.spark.master, prepare_python, run.path)
    train = commands.train_launch(site, config.launch, python, run.path, site.ranks, hosts)
    parts += [f"# prepare starts with\n# {prepare}\n", f"# the training starts with\n# {train}\n"]
    if site.launcher == "srun":
        parts.append(f"# its launcher starts the ranks with\n# {shlex.join(commands.rank_step(site, site.ranks))}\n")
    return "\n".join(parts)


def submit(run: RunDir, site: Site, config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Submit the unfinished stages; return the job ID of each. If one is refused, none stays submitted.

    `environment`: of sbatch. Raises InputError where jobs of the run are queued, another process works on the run, or
    Slurm refuses a job.
    """
    jobs = SlurmJobs(run)
    _require_none_queued(jobs)
    with RunLock(run):
        runs.freeze(run, config)
        _require_none_queued(jobs)  # another process may have submitted it before we had the lock
        jobs.folder.mkdir(mode=0o700, exist_ok=True)
        write_json(jobs.site_file, site.model_dump(mode="json"))
        for stage, text in batch_scripts(site, run).items():
            write_text(jobs.script_file(stage), text)
        unfinished: list[JobStage] = [stage for stage in JOB_STAGES if not jobs.is_done(stage)]
        jobs.record("submitted", stages=unfinished)
        return _submit_chain(jobs, unfinished, environment)


def _submit_chain(jobs: SlurmJobs, stages: Sequence[JobStage], environment: Mapping[str, str]) -> dict[str, str]:
    """Submit these stages, each to start after the one before; none where one would be refused, or is.

    Each job is recorded at once, so that `cancel` finds it whatever happens next.
    """
    queue.check([jobs.script_file(stage) for stage in stages], environment)
    earlier = jobs.jobs() if jobs.jobs_file.exists() else {}
    submitted: dict[str, str] = {}
    before = None
    try:
        for stage in stages:
            before = submitted[stage] = queue.submit(jobs.script_file(stage), before, environment)
            jobs.write_jobs(earlier | submitted)
    except BaseException:  # also Ctrl-C
        with suppress(IdxtrainError):  # the controller may be away: what the user needs to know is the first error
            queue.cancel(list(submitted.values()))
        raise
    return submitted


def _require_none_queued(jobs: SlurmJobs) -> None:
    waiting = [job for job in queue.find(jobs.scripts()) if not job.over]
    if waiting:
        listed = ", ".join(f"{job.job} ({job.name.rpartition('.')[2]}, {job.state})" for job in waiting)
        run_id = jobs.run.run_id
        raise InputError(
            f"--run-id {run_id}: found its jobs in the queue: {listed}; "
            f"fix: wait for them, or `idxtrain cancel {run_id}`"
        )
