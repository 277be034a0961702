"""python -m pipelines.slurm.job STAGE RUN_DIR: one job of a submitted run.

In RUN_DIR, %a stands for the task number of an array.

The job takes the run's lock and runs the stage as the site describes. A training that stopped on request is then
requeued. If the stage failed, the jobs that wait for it are cancelled.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import assert_never

from deploy.launcher.launch import Launch
from deploy.slurm import commands, queue
from deploy.slurm.queue import ControllerAwayError
from deploy.slurm.scratch import private_folder, scratch_parent
from deploy.slurm.site import JOB_STAGES, JobStage, Launcher, Site
from deploy.staging.step import staged
from jobs import stop_signals
from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.exit_codes import exit_codes
from jobs.logs import log_to_stderr
from jobs.run_dir import RunDir
from jobs.umask import keep_others_from_writing
from pipelines.config import Config
from pipelines.lock import LockedError
from pipelines.runs import read_config
from pipelines.slurm.container import binds
from pipelines.slurm.jobs import SlurmJobs
from pipelines.stages import run_stages

log = logging.getLogger("idxtrain")

_LOCK_SECONDS = 120.0  # twice the time after which the lock of a dead owner on another node is taken over
_RETRY_SECONDS = 2.0
_CONTROLLER_SECONDS = 600.0  # Slurm ends the job sooner if it is out of time


def run_job(stage: JobStage, run: RunDir, environment: Mapping[str, str]) -> int:
    """Run one job of a submitted run; return its exit code."""
    jobs, job = SlurmJobs(run), _job_id(environment)
    log_begin = jobs.log_size(stage, job)
    code = _run_recorded(jobs, stage, job, environment)
    why = jobs.last_error(stage, job, log_begin) if code else ""
    jobs.record("ended", stage=stage, job=job, code=code, why=why, step=jobs.checkpoint_step())
    if code:
        _requeue_or_cancel(jobs, stage, job, code)
    return code


def _run_recorded(jobs: SlurmJobs, stage: JobStage, job: str, environment: Mapping[str, str]) -> int:
    """Run the stage and record its start; return the exit code. Errors are one line on stderr."""
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if requests.note():
            raise KeyboardInterrupt

    stop_signals.handle(interrupt)
    try:
        site, config = jobs.site(), read_config(jobs.run)
        jobs.require_progress(stage, config.launch.max_restarts)
        jobs.record("started", stage=stage, job=job, host=socket.gethostname(), step=jobs.checkpoint_step())
        # The other stages read each shard once.
        what = [each for each in site.stage if each != "shards" or stage == "train"]
        with _scratch(environment, stage, job), staged(what, jobs.run.work.environments, os.environ) as placement:
            os.environ.update(placement.environment)
            os.environ.update(binds(site, config, str(scratch_parent(environment)), environment))
            _run_when_unlocked(stage, jobs.run, config, site, placement.python)
    except ReportedError as error:  # the stage has printed it
        return error.exit_code
    except (IdxtrainError, OSError) as error:
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)
        return error.exit_code if isinstance(error, IdxtrainError) else IdxtrainError.exit_code
    except KeyboardInterrupt:
        print(f"idxtrain: {stage}: stopped on request", file=sys.stderr, flush=True)
        return ResumableError.exit_code
    return 0


def _job_id(environment: Mapping[str, str]) -> str:
    """Return this job's ID; for a task of an array, ARRAY_TASK."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "")


def _run_when_unlocked(stage: JobStage, run: RunDir, config: Config, site: Site, python: str) -> None:
    """Run the stage, after unfinished earlier ones; wait for a lock whose owner is about to end. `python`: theirs."""

    def launches(run: RunDir, config: Config, stages: Sequence[str]) -> dict[str, Launch]:
        return _launches(site, stage, run, config, stages, python)

    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            run_stages(run, config, stage, launches)
            return
        except LockedError as error:
            if time.monotonic() > deadline:
                raise
            log.info("%s; waiting", error)
            time.sleep(_RETRY_SECONDS)


def _launches(
    site: Site, stage: JobStage, run: RunDir, config: Config, stages: Sequence[str], python: str
) -> dict[str, Launch]:
    """Return how each of these stages starts in the job of `stage`."""
    launches = {name: Launch(commands.stage_command(site, python, name, run.path)) for name in stages}
    if "train" in launches:
        ranks, hosts = config.launch.np or site.ranks, _hosts(site.launcher)
        launches["train"] = commands.train_launch(site, config.launch, python, run.path, ranks, hosts)
    if stage == "evaluate":
        launches["evaluate"] = commands.evaluate_launch(site, python, run.path)
    if stage == "prepare":  # a later job has other nodes; there prepare is done already
        prepare_python = python if commands.spark_is_ours(site, config.spark.master) else sys.executable
        launches["prepare"] = commands.prepare_launch(site, config.spark.master, prepare_python, run.path)
    return launches


def _hosts(launcher: Launcher) -> list[str]:
    """Return the names of this job's nodes for a launcher that needs them; the others ask Slurm."""
    match launcher:
        case "horovodrun":
            return queue.node_names(os.environ["SLURM_JOB_NODELIST"])
        case "srun" | "srun-pmix" | "mpirun":
            return []
        case _:
            assert_never(launcher)


def _requeue_or_cancel(jobs: SlurmJobs, stage: JobStage, job: str, code: int) -> None:
    """Requeue a stage that stopped on request; otherwise cancel the jobs that wait for it."""
    try:
        if _answered(lambda: queue.state(job)) != "RUNNING":
            return  # Slurm ends this job: it was cancelled, is out of time, or Slurm requeues it itself
        if code == ResumableError.exit_code:
            _requeue(jobs, stage, job)
        else:
            _cancel_later_jobs(jobs, stage)
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"idxtrain: {stage}: stopped before Slurm's controller answered", file=sys.stderr, flush=True)


def _requeue(jobs: SlurmJobs, stage: JobStage, job: str) -> None:
    """Requeue this job, or submit the stage again where that is not allowed."""
    jobs.record("again", stage=stage, job=job, how="requeue")  # first, because requeueing ends this process
    print(f"{stage}: requeued, to resume from its checkpoint", file=sys.stderr, flush=True)
    why = "the site does not allow it" if not jobs.site().requeue else _requeued(job)
    if not why:
        return
    if "_" in job:
        raise IdxtrainError(f"{stage}: cannot be requeued ({why}); fix: submit the sweep again, which resumes it")
    # The script of this job, which may be a sweep's: a run has its own only if it was submitted alone.
    new = _submitted_again(Path(_answered(lambda: queue.script_of(job))), job)
    known = jobs.jobs() | {stage: new}
    later = next((known[name] for name in _stages_after(stage) if name in known), None)
    if later:
        queue.depend(_whole(later), new)
    jobs.write_jobs(known)
    jobs.record("again", stage=stage, job=new, how="resubmit")
    print(f"{stage}: cannot be requeued ({why}); resubmitted as job {new}", file=sys.stderr, flush=True)


def _requeued(job: str) -> str:
    """Put this job back into the queue; return an empty text, or why Slurm refuses."""
    return _answered(lambda: queue.requeue(job), lambda: "" if queue.state(job) != "RUNNING" else None)


def _submitted_again(script: Path, job: str) -> str:
    """Submit this job's script again; return the new job."""

    def submitted() -> str | None:
        return next((each.job for each in queue.find([script]) if not each.over and each.job != job), None)

    return _answered(lambda: queue.submit(script), submitted)


def _answered(ask: Callable[[], str], done: Callable[[], str | None] = lambda: None) -> str:
    """Return what Slurm's controller answers; ask it again while it is away, for as long as this job may last.

    `done`: for a request that must not be made twice, called before it is made again: what its answer would have been,
    as the controller may have acted on it without an answer; None if it has not.
    """
    deadline, is_repeated = time.monotonic() + _CONTROLLER_SECONDS, False
    while True:
        try:
            return ask() if not is_repeated or (answer := done()) is None else answer
        except ControllerAwayError as error:
            is_repeated = True
            if time.monotonic() > deadline:
                raise
            log.info("%s; asking again", error)
            time.sleep(_RETRY_SECONDS)


def _cancel_later_jobs(jobs: SlurmJobs, stage: JobStage) -> None:
    later = {name: _whole(job) for name, job in jobs.jobs().items() if name in _stages_after(stage)}
    if not later:
        return
    queue.cancel(list(later.values()))
    listed = ", ".join(f"{name} (job {job})" for name, job in later.items())
    print(
        f"{stage}: failed, so {listed} cannot run and {'is' if len(later) == 1 else 'are'} cancelled; "
        f"fix the error, then {jobs.run.resumed_by} resumes at {stage}",
        file=sys.stderr,
        flush=True,
    )


def _whole(job: str) -> str:
    """Return the array of a task; of any other job, the job."""
    return job.partition("_")[0]


def _stages_after(stage: JobStage) -> tuple[JobStage, ...]:
    return JOB_STAGES[JOB_STAGES.index(stage) + 1 :]


@contextmanager
def _scratch(environment: Mapping[str, str], stage: str, job: str) -> Iterator[None]:
    """Put temporary files into a private folder on the node's own disk, which is removed at the end."""
    with private_folder(scratch_parent(environment), f"{job}-{stage}") as folder:
        os.environ["TMPDIR"] = str(folder)
        yield


def main(arguments: Sequence[str]) -> int:
    """Run the job that the command line names; return its exit code. Raises InputError for a wrong command line."""
    if len(arguments) != 2 or arguments[0] not in JOB_STAGES:
        raise InputError(f"usage: python -m pipelines.slurm.job {'|'.join(JOB_STAGES)} RUN_DIR")
    stage = JOB_STAGES[JOB_STAGES.index(arguments[0])]
    path = Path(arguments[1])
    path = path.with_name(path.name.replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", "%a")))
    return run_job(stage, RunDir(path.resolve()), os.environ)


if __name__ == "__main__":
    keep_others_from_writing()
    log_to_stderr()
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
