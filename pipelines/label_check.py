"""idxtrain inspect --labels: prepare a run, then look for labels that are probably incorrect."""

import logging
from pathlib import Path

from deploy.launcher.launch import Launch
from jobs.errors import ReportedError
from jobs.installation import require_horovod
from jobs.python import module_command
from jobs.run_dir import RunDir
from jobs.train.preflight import check_config
from pipelines import request
from pipelines.lock import RunLock
from pipelines.process import run_process
from pipelines.stages import run_stages

log = logging.getLogger("idxtrain")


def check_labels(options: request.Options, folds: int) -> Path:
    """Return the page with the label suspects of a run's data; make the run and its dataset if they are missing.

    The run's training config trains the networks. Finished folds are not trained again. Raises InputError for bad
    input, ReportedError if the process that trains fails.
    """
    existing = request.find_run(options)
    config = request.config_of(options, existing)
    check_config(config.train, 1)
    require_horovod()
    if existing is None:
        request.check_archives(config)
    with request.opened_run(options, existing, config) as run:
        run_stages(run, config, "prepare")
    with RunLock(run):
        _run(run, folds)
    return run.path / "labels" / "labels.html"


def _run(run: RunDir, folds: int) -> None:
    how = Launch(module_command("jobs.inspect.labels", str(run.path), str(folds)))
    ended = run_process(how, "labels", run.resumed_by)
    if ended.code:
        raise ReportedError(ended.code, ended.reason)
