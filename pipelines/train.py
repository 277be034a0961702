"""The pipeline: fetch, prepare, train, evaluate, each a process; what is done is not done again."""

import json
import logging
import os
from collections.abc import Mapping

from deploy.launch import Launch, launch, visible_gpus
from jobs.errors import ReportedError
from jobs.run_dir import RunDir
from jobs.stage import STAGES, is_done
from jobs.train.preflight import check_training
from pipelines.config import Config
from pipelines.lock import RunLock
from pipelines.process import run_process

log = logging.getLogger("idxtrain")


def ranks(config: Config, environment: Mapping[str, str]) -> int:
    """Return how many ranks train: as configured, else one a visible GPU, else one."""
    return config.launch.np or max(1, visible_gpus(environment))


def launches(run: RunDir, config: Config, stages: tuple[str, ...]) -> dict[str, Launch]:
    """Return how each of these stages will be started."""
    return {stage: launch(stage, run.path, ranks(config, os.environ), config.launch) for stage in stages}


def run_stages(run: RunDir, config: Config, last: str = STAGES[-1]) -> None:
    """Run the stages up to `last` that are not done yet. Raises ReportedError for the first that fails."""
    with RunLock(run):
        for stage, how in launches(run, config, STAGES[: STAGES.index(last) + 1]).items():
            if is_done(run, stage):
                log.info("%s: done already", stage)
                continue
            if stage == "train":
                check_training(run, ranks(config, os.environ))
            code = run_process(how)
            if code:
                raise ReportedError(code)


def result_line(run: RunDir) -> str:
    """Return a run's result: `test accuracy 0.9924 (76 errors in 10000)`."""
    test = json.loads(run.metrics_file.read_text(encoding="utf-8"))["test"]
    return f"test accuracy {test['accuracy']:.4f} ({test['errors']} errors in {test['count']})"
