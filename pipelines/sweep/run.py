"""A sweep on this machine, one training after another, or on Slurm, as an array.

Nothing is tested before each run is trained: the rerun that trains what had failed may find another best point, and
the test set would then be used twice.

On Slurm a prepare job comes before the array. The last job is

    python -m pipelines.sweep.run WORK NAME

which prints the table and evaluates the run of the best point. With folds, it submits that run instead: a training on
the recipe's own split, which no job of the sweep has done yet. The array then prepares the folds but the first.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deploy.slurm import queue, script
from deploy.slurm.site import Site
from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.exit_codes import exit_codes
from jobs.files import read_object, write_json, write_text
from jobs.logs import log_to_stderr
from jobs.python import module_command
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from jobs.umask import keep_others_from_writing
from jobs.words import counted
from pipelines import request, runs
from pipelines.config import Config, validate
from pipelines.lock import RunLock
from pipelines.request import Options
from pipelines.slurm.job import run_job
from pipelines.slurm.jobs import SlurmJobs
from pipelines.slurm.submit import config_for, job_command, submit
from pipelines.stages import result_line, run_stages
from pipelines.sweep.grid import Point, Sweep, grid_points, read_sweep, validation_of
from pipelines.sweep.results import BEST, Result, best, read_results, result_table

log = logging.getLogger("idxtrain")

Configs = Mapping[str, Config]  # by run ID


def plan_sweep(
    name: str, axes: tuple[str, ...], options: Options, site: Site | None, folds: int | None = None
) -> tuple[Sweep, Configs]:
    """Return the sweep and the config of each training; raise InputError for one that cannot be trained."""
    work = request.work_dir(options)
    runs.find(work, name)  # raises InputError for a name that cannot begin a run ID
    points = grid_points(name, axes, folds)
    whole = replace(options, assignments=(*options.assignments, *points[0].settings))
    validation = validation_of(request.config_of(whole, None).prepare) if folds else {}
    configs: dict[str, Config] = {}
    for point in points:
        settings = replace(options, run_id=point.run_id, assignments=(*options.assignments, *point.assignments))
        existing = request.find_run(settings)
        config = config_for(site, settings, existing) if site else request.config_of(settings, existing)
        if not configs and existing is None:  # the points share their archives
            request.check_archives(config)
        configs[point.run_id] = config
    return Sweep(name=name, work=work, points=points, validation=validation), configs


def run_here(sweep: Sweep, configs: Configs) -> int:
    """Train all points one after another, print the table, test the best.

    Returns the exit code. Raises IdxtrainError where a point failed, so none is tested.
    """
    sweep.write()
    sweep.jobs_file.unlink(missing_ok=True)  # it is no longer one on Slurm
    failures: dict[str, str] = {}
    for number, point in enumerate(sweep.points, 1):
        log.info("sweep: %d of %d: %s: %s", number, len(sweep.points), point.run_id, ", ".join(_shown(point)))
        run = runs.make(sweep.work, point.run_id)
        try:
            if run_stages(run, configs[point.run_id], "train"):
                raise ResumableError(f"sweep: stopped on request; the same command with --name {sweep.name} resumes it")
        except ReportedError as error:
            if error.exit_code == ResumableError.exit_code:
                raise
            failures[point.run_id] = f"failed, see {run.logs}"
    results = read_results(sweep, failures)
    _print_table(sweep, result_table(results))
    _require_all_trained(sweep)
    winner = best(results)
    if winner:
        run, config = _tested_run(sweep, winner, configs[winner.point.run_id])
        run_stages(run, config)
        _print_best(winner, result_line(run))
    return 0


def _require_all_trained(sweep: Sweep) -> None:
    untrained = [point for point in sweep.points if not is_done(sweep.run(point), "train")]
    if untrained:
        raise IdxtrainError(
            f"sweep {sweep.name}: not tested: {len(untrained)} of {counted(len(sweep.points), 'run')} failed, for the "
            "reasons in "
            f"the table; fix: correct them, then run the same command with --name {sweep.name}"
        )


def _shown(point: Point) -> tuple[str, ...]:
    return (*point.settings, f"fold {point.fold}") if point.fold else point.settings


def _tested_run(sweep: Sweep, winner: Result, config: Config) -> tuple[RunDir, Config]:
    """Return the run to test, and its config: the best point's own or, with folds, a new one that is on no fold."""
    if not sweep.validation:
        return sweep.run(winner.point), config
    values = config.to_json()
    values["prepare"] |= sweep.validation
    return runs.make(sweep.work, f"{winner.point.run_id}-best"), validate(values, "sweep")


def submit_sweep(sweep: Sweep, configs: Configs, site: Site, at_once: int = 0) -> dict[str, str]:
    """Submit a sweep: prepare, all points as an array, the table; return the job IDs by stage.

    `at_once`: how many points may run at a time; 0: any number. Raises InputError where jobs of the sweep are queued,
    or Slurm takes no array of this size or refuses a job.
    """
    _require_none_queued(sweep)
    _require_size(sweep)
    sweep.write()
    for stage, text in batch_scripts(sweep, site, at_once).items():
        write_text(sweep.script_file(stage), text)
    queue.check(sweep.scripts())
    for point in sweep.points:
        _write_run(runs.make(sweep.work, point.run_id), configs[point.run_id], site)
    submitted: dict[str, str] = {}
    try:
        submitted["prepare"] = queue.submit(sweep.script_file("prepare"))
        submitted["train"] = queue.submit(sweep.script_file("train"), submitted["prepare"])
        # Also after failures in the array: a table of the trained points is better than no table.
        submitted["evaluate"] = queue.submit(sweep.script_file("evaluate"), submitted["train"], after_any=True)
    except BaseException:  # also Ctrl-C
        with suppress(IdxtrainError):  # the controller may be away: what the user needs to know is the first error
            queue.cancel(list(submitted.values()))
        raise
    finally:
        write_json(sweep.jobs_file, submitted)
    for number, point in enumerate(sweep.points):
        first = {"prepare": submitted["prepare"]} if number == 0 else {}
        SlurmJobs(sweep.run(point)).write_jobs({**first, "train": f"{submitted['train']}_{number}"})
    return submitted


def _require_none_queued(sweep: Sweep) -> None:
    waiting = [job for job in queue.find(sweep.scripts()) if not job.over]
    if waiting:
        listed = ", ".join(f"{job.job} ({job.state})" for job in waiting)
        raise InputError(
            f"--name {sweep.name}: found its jobs in the queue: {listed}; "
            f"fix: wait for them, or `idxtrain cancel {sweep.name}`"
        )


def _require_size(sweep: Sweep) -> None:
    limit = queue.max_array_size()
    if limit is not None and len(sweep.points) > limit:
        raise InputError(
            f"--grid: found {counted(len(sweep.points), 'run')}, expected {limit} or fewer, the MaxArraySize of this "
            "Slurm; fix: give fewer values, or several sweeps with other names"
        )


def _write_run(run: RunDir, config: Config, site: Site) -> None:
    """Write what the array's task for this run reads: its config and the site."""
    with RunLock(run):
        runs.freeze(run, config)
        jobs = SlurmJobs(run)
        jobs.folder.mkdir(mode=0o700, exist_ok=True)
        write_json(jobs.site_file, site.model_dump(mode="json"))
        jobs.record("submitted", stages=["train"])


def batch_scripts(sweep: Sweep, site: Site, at_once: int = 0) -> dict[str, str]:
    """Return the three batch scripts by stage: prepare, the array of trainings, and the table."""
    first, number = sweep.run(sweep.points[0]), len(sweep.points)
    any_run = str(sweep.work.runs / f"{sweep.name}-%a")
    logs = script.escaped(sweep.work.runs / sweep.name)
    about = f"sweep {sweep.name}"
    prepare = script.Job(
        name=script.job_name(sweep.name, "prepare"),
        about=f"prepare of {about}",
        log=f"{script.escaped(first.slurm)}/prepare-%j.out",
        command=job_command("prepare", first),
    )
    array = script.Job(
        name=script.job_name(sweep.name, "train"),
        about=f"train of {about}, {counted(number, 'run')}",
        log=f"{logs}-%a/slurm/train-%A_%a.out",
        command=module_command("pipelines.slurm.job", "train", any_run),
        array=number,
        at_once=at_once,
    )
    last = script.Job(
        name=script.job_name(sweep.name, "evaluate"),
        about=f"table of {about}",
        log=f"{script.escaped(sweep.folder)}/table-%j.out",
        command=module_command("pipelines.sweep.run", str(sweep.work.path), sweep.name),
    )
    return {
        "prepare": script.batch_script(site, "prepare", prepare),
        "train": script.batch_script(site, "train", array),
        "evaluate": script.batch_script(site, "evaluate", last),
    }


def table_so_far(sweep: Sweep) -> list[str]:
    """Return the table of a sweep as it is now."""
    return result_table(read_results(sweep, _failures(sweep)))


def finish(sweep: Sweep) -> int:
    """Print and save the table of a sweep on Slurm, test the best point; return the exit code.

    With folds, the training of the best point is submitted, unless it is done. Raises IdxtrainError where a point was
    not trained or none has a validation accuracy.
    """
    results = read_results(sweep, _failures(sweep))
    _print_table(sweep, result_table(results))
    _require_all_trained(sweep)
    winner = best(results)
    if winner is None:
        raise IdxtrainError(f"sweep {sweep.name}: no point has a validation accuracy; the reasons are in the table")
    first = sweep.run(winner.point)
    run, config = _tested_run(sweep, winner, runs.read_config(first))
    if sweep.validation:
        jobs = submit(run, SlurmJobs(first).site(), config, os.environ)
        if not jobs:  # all of its stages were done
            _print_best(winner, result_line(run))
            return 0
        listed = ", ".join(f"{stage} {job}" for stage, job in jobs.items())
        _print_best(winner, f"submitted as run {run.run_id}: {listed}; `idxtrain status {run.run_id}` shows its state")
        return 0
    code = run_job("evaluate", run, os.environ)
    if again := SlurmJobs(run).jobs().get("evaluate"):  # this job was submitted again
        write_json(sweep.jobs_file, {**read_object(sweep.jobs_file, ""), "evaluate": again})
    if code == 0:
        _print_best(winner, result_line(run))
    return code


def _failures(sweep: Sweep) -> dict[str, str]:
    ended = {point.run_id: SlurmJobs(sweep.run(point)).last("train", "ended") for point in sweep.points}
    return {run_id: str(entry.get("why", "")) for run_id, entry in ended.items() if entry.get("code")}


def _print_best(winner: Result, outcome: str) -> None:
    print(f"{BEST}{winner.runs}: {winner.about}")
    print(outcome)


def _print_table(sweep: Sweep, lines: list[str]) -> None:
    """Print the table and save it in the sweep's folder."""
    write_text(sweep.folder / "table.txt", "\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    keep_others_from_writing()
    log_to_stderr()
    with exit_codes():
        sys.exit(finish(read_sweep(sys.argv[2], Work(Path(sys.argv[1])))))
