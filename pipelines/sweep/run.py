"""A sweep on this machine, one point after another, or on Slurm, as an array.

On Slurm a prepare job comes before the array. The last job is

    python -m pipelines.sweep.run WORK NAME

which prints the table and evaluates the run of the best point.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deploy.slurm import queue, script
from deploy.slurm.site import Site
from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.exit_codes import exit_codes
from jobs.files import write_json, write_text
from jobs.logs import log_to_stderr
from jobs.python import module_command
from jobs.run_dir import RunDir, Work
from jobs.umask import keep_others_from_writing
from pipelines import request, runs
from pipelines.config import Config
from pipelines.lock import RunLock
from pipelines.request import Options
from pipelines.slurm.job import run_job
from pipelines.slurm.jobs import SlurmJobs
from pipelines.slurm.submit import config_for, job_command
from pipelines.stages import result_line, run_stages
from pipelines.sweep.grid import Result, Sweep, best, grid_points, read_results, read_sweep, result_table

log = logging.getLogger("idxtrain")

Configs = Mapping[str, Config]  # by run ID


def plan_sweep(name: str, axes: tuple[str, ...], options: Options, site: Site | None) -> tuple[Sweep, Configs]:
    """Return the sweep and the config of each point; raise InputError for a point that cannot be trained."""
    work = request.work_dir(options)
    runs.find(work, name)  # raises InputError for a name that cannot begin a run ID
    sweep = Sweep(name, work, grid_points(name, axes))
    configs = {}
    for point in sweep.points:
        settings = replace(options, run_id=point.run_id, assignments=(*options.assignments, *point.settings))
        existing = request.find_run(settings)
        configs[point.run_id] = config_for(site, settings, existing) if site else request.config_of(settings, existing)
    return sweep, configs


def run_here(sweep: Sweep, configs: Configs) -> int:
    """Train all points one after another, print the table, evaluate the best; return the exit code."""
    sweep.write()
    failures: dict[str, str] = {}
    for number, point in enumerate(sweep.points, 1):
        log.info("sweep: %d of %d: %s: %s", number, len(sweep.points), point.run_id, ", ".join(point.settings))
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
    winner = best(results)
    if winner:
        run_stages(sweep.run(winner.point), configs[winner.point.run_id])
        _print_best(sweep, winner)
    return IdxtrainError.exit_code if failures else 0


def submit_sweep(sweep: Sweep, configs: Configs, site: Site) -> dict[str, str]:
    """Submit a sweep: prepare, all points as an array, the table; return the job IDs by stage.

    Raises InputError where jobs of the sweep are queued, or Slurm refuses one.
    """
    _require_none_queued(sweep)
    sweep.write()
    for point in sweep.points:
        _write_run(runs.make(sweep.work, point.run_id), configs[point.run_id], site)
    for stage, text in batch_scripts(sweep, site).items():
        write_text(sweep.folder / f"{stage}.sh", text)
    submitted: dict[str, str] = {}
    try:
        submitted["prepare"] = queue.submit(sweep.folder / "prepare.sh")
        submitted["train"] = queue.submit(sweep.folder / "train.sh", submitted["prepare"])
        # Also after failures in the array: a table of the trained points is better than no table.
        submitted["evaluate"] = queue.submit(sweep.folder / "evaluate.sh", submitted["train"], after_any=True)
    except IdxtrainError:
        queue.cancel(list(submitted.values()))
        raise
    for number, point in enumerate(sweep.points):
        first = {"prepare": submitted["prepare"]} if number == 0 else {}
        SlurmJobs(sweep.run(point)).write_jobs({**first, "train": f"{submitted['train']}_{number}"})
    return submitted


def _require_none_queued(sweep: Sweep) -> None:
    names = [script.job_name(sweep.name, stage) for stage in ("prepare", "train", "evaluate")]
    waiting = [job for job in queue.find(names) if not job.over]
    if waiting:
        listed = ", ".join(f"{job.job} ({job.state})" for job in waiting)
        raise InputError(
            f"--name {sweep.name}: found its jobs in the queue: {listed}; fix: wait for them, or scancel them"
        )


def _write_run(run: RunDir, config: Config, site: Site) -> None:
    """Write what the array's task for this run reads: its config and the site."""
    with RunLock(run):
        runs.freeze(run, config)
        jobs = SlurmJobs(run)
        jobs.folder.mkdir(mode=0o700, exist_ok=True)
        write_json(jobs.site_file, site.model_dump(mode="json"))
        jobs.record("submitted", stages=["train"])


def batch_scripts(sweep: Sweep, site: Site) -> dict[str, str]:
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
        about=f"train of {about}, {number} points",
        log=f"{logs}-%a/slurm/train-%A_%a.out",
        command=module_command("pipelines.slurm.job", "train", any_run),
        array=number,
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
    """Print and save the table of a sweep on Slurm, evaluate the best point; return the exit code.

    Raises IdxtrainError where no point was trained.
    """
    results = read_results(sweep, _failures(sweep))
    _print_table(sweep, result_table(results))
    winner = best(results)
    if winner is None:
        raise IdxtrainError(f"sweep {sweep.name}: no point was trained; the reasons are in the table")
    code = run_job("evaluate", sweep.run(winner.point), os.environ)
    if code == 0:
        _print_best(sweep, winner)
    return code


def _failures(sweep: Sweep) -> dict[str, str]:
    ended = {point.run_id: SlurmJobs(sweep.run(point)).last("train", "ended") for point in sweep.points}
    return {run_id: str(entry.get("why", "")) for run_id, entry in ended.items() if entry.get("code")}


def _print_best(sweep: Sweep, winner: Result) -> None:
    print(f"best by validation: {winner.point.run_id}: {', '.join(winner.point.settings)}")
    print(result_line(sweep.run(winner.point)))


def _print_table(sweep: Sweep, lines: list[str]) -> None:
    """Print the table and save it in the sweep's folder."""
    write_text(sweep.folder / "table.txt", "\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    keep_others_from_writing()
    log_to_stderr()
    with exit_codes():
        sys.exit(finish(read_sweep(sys.argv[2], Work(Path(sys.argv[1])))))
