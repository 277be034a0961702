"""python -m pipelines.slurm.job STAGE RUN_DIR: one job of a submitted run, from its first start to its last end.

In RUN_DIR, %a stands for the number of an array's task.

It takes the run's lock, runs the stage as the site says, and then sees to what comes next: a training that stopped as
asked goes back into the queue; a stage that failed takes the jobs that wait for it along.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deploy.launcher.launch import Launch
from deploy.slurm import commands, queue
from deploy.slurm.scratch import private_folder
from deploy.slurm.script import SCRATCH
from deploy.slurm.site import JOB_STAGES, JobStage, Site
from jobs import stop_signals
from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.logs import log_to_stderr
from jobs.run_dir import RunDir
from jobs.umask import keep_others_from_writing
from pipelines.config import Config
from pipelines.lock import LockedError
from pipelines.runs import read_config
from pipelines.slurm.jobs import SlurmJobs
from pipelines.stages import run_stages

log = logging.getLogger("idxtrain")

_LOCK_SECONDS = 120.0  # twice what a lock's dead owner on another node is waited for
_RETRY_SECONDS = 2.0


def main(stage: JobStage, run: RunDir, environment: Mapping[str, str]) -> int:
    """Be a job; return the exit code to end with."""
    jobs, me = SlurmJobs(run), _job_id(environment)
    begin = jobs.log_size(stage, me)
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if requests.note():
            raise KeyboardInterrupt

    stop_signals.handle(interrupt)
    try:
        site, config = jobs.site(), read_config(run)
        jobs.require_progress(stage, config.launch.max_restarts)
        jobs.note("started", stage=stage, job=me, host=socket.gethostname(), step=jobs.checkpoint_step())
        with _scratch(environment, stage, me):
            _run(stage, run, config, site)
        code = 0
    except ReportedError as error:  # the stage has said why
        code = error.exit_code
    except (IdxtrainError, OSError) as error:
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)
        code = error.exit_code if isinstance(error, IdxtrainError) else IdxtrainError.exit_code
    except KeyboardInterrupt:
        print(f"idxtrain: {stage}: stopped as asked", file=sys.stderr, flush=True)
        code = ResumableError.exit_code
    why = jobs.last_words(stage, me, begin) if code else ""
    jobs.note("ended", stage=stage, job=me, code=code, why=why, step=jobs.checkpoint_step())
    if code:
        _see_to_the_rest(jobs, stage, me, code)
    return code


def _job_id(environment: Mapping[str, str]) -> str:
    """Return this job's ID: of an array's task, the array's ID and the task's number."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "")


def _run(stage: JobStage, run: RunDir, config: Config, site: Site) -> None:
    """Run the stage, and those before it where they are not done; waits for a lock whose owner is about to go."""

    def launches(run: RunDir, config: Config, stages: Sequence[str]) -> dict[str, Launch]:
        hosts = queue.node_names(os.environ["SLURM_JOB_NODELIST"]) if site.launcher == "horovodrun" else []
        ranks = config.launch.np or site.ranks
        found = {name: Launch(commands.stage_command(site, sys.executable, name, run.path)) for name in stages}
        if "train" in found:
            found["train"] = commands.train_launch(site, config.launch, sys.executable, run.path, ranks, hosts)
        if stage == "prepare":  # a later job, which has other nodes, at most finds it done
            found["prepare"] = commands.prepare_launch(site, config.spark.master, sys.executable, run.path)
        return found

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


def _see_to_the_rest(jobs: SlurmJobs, stage: JobStage, me: str, code: int) -> None:
    """Go on later where the stage stopped as asked, else take the jobs along that wait for it."""
    try:
        running = queue.state(me) == "RUNNING"
        if code == ResumableError.exit_code:
            if running:  # else Slurm ends this job: cancelled, out of time, or about to be requeued by itself
                _go_on_later(jobs, stage, me)
        elif running:
            _cancel_those_after(jobs, stage)
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)


def _go_on_later(jobs: SlurmJobs, stage: JobStage, me: str) -> None:
    # Written down first: requeueing ends this process.
    jobs.note("again", stage=stage, job=me, how="requeue")
    print(f"{stage}: goes back into the queue, to go on from its checkpoint", file=sys.stderr, flush=True)
    why = "the site says so" if not jobs.site().requeue else queue.requeue(me)
    if not why:
        return
    if "_" in me:
        raise IdxtrainError(f"{stage}: cannot be requeued ({why}); submit the sweep again, and it goes on")
    # sbatch must not take this job's own variables for wishes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    new = queue.submit(jobs.script_file(stage), None, environment | kept)
    known = jobs.jobs() | {stage: new}
    after = next((known[later] for later in _stages_after(stage) if later in known), None)
    if after:
        queue.depend(after, new)
    jobs.write_jobs(known)
    jobs.note("again", stage=stage, job=new, how="resubmit")
    print(f"{stage}: cannot be requeued ({why}); goes on as job {new}", file=sys.stderr, flush=True)


def _cancel_those_after(jobs: SlurmJobs, stage: JobStage) -> None:
    later = {name: job for name, job in jobs.jobs().items() if name in _stages_after(stage)}
    if not later:
        return
    queue.cancel(list(later.values()))
    listed = ", ".join(f"{name} (job {job})" for name, job in later.items())
    print(
        f"{stage} failed, so {listed} cannot run and {'is' if len(later) == 1 else 'are'} cancelled; "
        f"mend it, then `idxtrain submit --run-id {jobs.run.run_id}` goes on from {stage}",
        file=sys.stderr,
        flush=True,
    )


def _stages_after(stage: JobStage) -> tuple[JobStage, ...]:
    return JOB_STAGES[JOB_STAGES.index(stage) + 1 :]


@contextmanager
def _scratch(environment: Mapping[str, str], stage: str, me: str) -> Iterator[None]:
    """Let temporary files lie in a private folder on the node's own disk, which is removed at the end."""
    with private_folder(Path(environment.get(SCRATCH) or "/tmp"), f"{me}-{stage}") as folder:  # noqa: S108
        os.environ["TMPDIR"] = str(folder)
        yield


if __name__ == "__main__":
    keep_others_from_writing()
    log_to_stderr()
    if len(sys.argv) != 3 or sys.argv[1] not in JOB_STAGES:
        print(f"idxtrain: usage: python -m pipelines.slurm.job {'|'.join(JOB_STAGES)} RUN_DIR", file=sys.stderr)
        sys.exit(InputError.exit_code)
    named = JOB_STAGES[JOB_STAGES.index(sys.argv[1])]
    path = Path(sys.argv[2])
    path = path.with_name(path.name.replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", "%a")))
    sys.exit(main(named, RunDir(path.resolve()), os.environ))
