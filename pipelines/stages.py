"""The pipeline: fetch, prepare, train, evaluate. Each stage is a process; finished stages are skipped."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from deploy.launcher.launch import Launch, launch, visible_gpus
from jobs.errors import ReportedError, ResumableError
from jobs.installation import require_horovod
from jobs.logs import Errors
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from jobs.stage import STAGES, is_done
from jobs.train.preflight import check_config, check_dataset
from pipelines import leftovers, runs
from pipelines.config import Config
from pipelines.lock import RunLock
from pipelines.process import run_process

log = logging.getLogger("idxtrain")

# From a run, its config and stages to how each stage starts.
PlanLaunches = Callable[[RunDir, Config, Sequence[str]], Mapping[str, Launch]]


def ranks(config: Config, environment: Mapping[str, str]) -> int:
    """Return the number of ranks: `launch.np`, or one per visible GPU, or 1."""
    return config.launch.np or max(1, visible_gpus(environment))


def local_launches(run: RunDir, config: Config, stages: Sequence[str]) -> dict[str, Launch]:
    """Return how each of these stages starts on this machine."""
    return {stage: launch(stage, run.path, ranks(config, os.environ), config.launch) for stage in stages}


def run_stages(
    run: RunDir, config: Config, last: str = STAGES[-1], plan_launches: PlanLaunches = local_launches
) -> bool:
    """Run the unfinished stages up to `last`, started as `plan_launches` returns.

    Returns whether a stop was requested while `last` ran, although it finished. Raises ReportedError for the first
    stage that fails. Raises InputError for what can be refused before a stage starts: another process works on the run,
    the run has another config or dataset, or the training cannot work.
    """
    with RunLock(run):
        for path in leftovers.of_run(run):
            path.unlink(missing_ok=True)
        launches = plan_launches(run, config, STAGES[: STAGES.index(last) + 1])
        if "train" in launches and not is_done(run, "train"):
            check_config(config.train, ranks(config, os.environ))
            if plan_launches is local_launches:  # a Slurm site may train in a container
                require_horovod()
        runs.freeze(run, config)
        stop_requested = False
        for stage, how in launches.items():
            if stage == "prepare":
                runs.require_same_dataset(run, config)
            if is_done(run, stage):
                log.info("%s: already done, skipped", stage)
                continue
            if stage == "train":
                check_dataset(run, config.train, ranks(config, os.environ))
            stop_requested = run_stage(run, stage, how)
            if stop_requested and stage != last:
                raise ResumableError(f"{stage}: finished, then stopped on request; {run.resumed_by} resumes the run")
        return stop_requested


def run_stage(run: RunDir, stage: str, how: Launch) -> bool:
    """Run one stage; return whether it finished although a stop was requested. Raises ReportedError if it fails."""
    errors = Errors(run.logs / f"{stage}.log")
    ended = run_process(how, stage, run.origin.resumed_by)
    if ended.reason:
        print(f"idxtrain: {ended.reason}", file=sys.stderr)
    if ended.code:
        raise ReportedError(ended.code, ended.reason or errors.last())
    return ended.stop_requested


def result_line(run: RunDir) -> str:
    """Return a run's result: `test accuracy 0.9924 (76 errors in 10000)`.

    Scripts read this line, so it says "errors" even of one.
    """
    test = read_metrics(run).test
    return f"test accuracy {test.accuracy:.4f} ({test.errors} errors in {test.count})"
