"""The pipeline: fetch, prepare, train, evaluate, each a process; what is done is not done again."""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from deploy.launcher.launch import Launch, launch, visible_gpus
from jobs.errors import ReportedError, ResumableError
from jobs.logs import Errors
from jobs.run_dir import RunDir
from jobs.stage import STAGES, is_done
from jobs.train.preflight import check_config, check_dataset
from pipelines import leftovers, runs
from pipelines.config import Config
from pipelines.lock import RunLock
from pipelines.process import run_process

log = logging.getLogger("idxtrain")


def ranks(config: Config, environment: Mapping[str, str]) -> int:
    """Return how many ranks train: as configured, else one a visible GPU, else one."""
    return config.launch.np or max(1, visible_gpus(environment))


Launches = Callable[[RunDir, Config, Sequence[str]], Mapping[str, Launch]]


def launches(run: RunDir, config: Config, stages: Sequence[str]) -> dict[str, Launch]:
    """Return how each of these stages will be started on this machine."""
    return {stage: launch(stage, run.path, ranks(config, os.environ), config.launch) for stage in stages}


def run_stages(run: RunDir, config: Config, last: str = STAGES[-1], how_to: Launches = launches) -> bool:
    """Run the stages up to `last` that are not done yet, each as `how_to` says.

    Return whether it was asked to stop meanwhile, but `last` came to its end all the same.

    Raises ReportedError for the first that fails; InputError for what can be refused before: another process on the
    run, another config or dataset than its own, a training that cannot work.
    """
    with RunLock(run):
        for path in leftovers.of_run(run):
            path.unlink(missing_ok=True)
        planned = how_to(run, config, STAGES[: STAGES.index(last) + 1])
        if "train" in planned and not is_done(run, "train"):
            check_config(config.train, ranks(config, os.environ))
        runs.freeze(run, config)
        was_asked = False
        for stage, how in planned.items():
            if stage == "prepare":
                runs.require_same_dataset(run, config)
            if is_done(run, stage):
                log.info("%s: done already", stage)
                continue
            if stage == "train":
                check_dataset(run)
            errors = Errors(run.logs / f"{stage}.log")
            ended = run_process(how, stage, run.run_id)
            if ended.why:
                print(f"idxtrain: {ended.why}", file=sys.stderr)
            if ended.code:
                raise ReportedError(ended.code, ended.why or errors.last())
            was_asked = ended.was_asked
            if was_asked and stage != last:
                raise ResumableError(
                    f"{stage}: done, then stopped as asked; `idxtrain run --run-id {run.run_id}` resumes it"
                )
        return was_asked


def result_line(run: RunDir) -> str:
    """Return a run's result: `test accuracy 0.9924 (76 errors in 10000)`."""
    test = json.loads(run.metrics_file.read_text(encoding="utf-8"))["test"]
    return f"test accuracy {test['accuracy']:.4f} ({test['errors']} errors in {test['count']})"
