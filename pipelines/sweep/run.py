"""Sweeps run: here, one point after another; or on Slurm, as an array between a prepare job and the table.

    python -m pipelines.sweep.run WORK NAME

is the last job of the latter: it prints the table and evaluates the best point's run.
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
from jobs.files import write_json, write_text
from jobs.logs import log_to_stderr
from jobs.python import module_command
from jobs.run_dir import Work
from jobs.umask import keep_others_from_writing
from pipelines import request, runs
from pipelines.config import Config
from pipelines.lock import RunLock
from pipelines.request import Options
from pipelines.slurm import job, submit
from pipelines.slurm.jobs import SlurmJobs
from pipelines.stages import result_line, run_stages
from pipelines.sweep.grid import Sweep, best, grid, read, results, table

log = logging.getLogger("idxtrain")

Configs = Mapping[str, Config]  # by run ID


def plan(name: str, axes: tuple[str, ...], options: Options, site: Site | None) -> tuple[Sweep, Configs]:
    """Return the sweep, and the config of each point; raise InputError for a point that cannot be."""
    work = request.place(options)
    runs.find(work, name)  # the name is the beginning of its runs' IDs, so it has to be one
    sweep = Sweep(name, work, grid(name, axes))
    configs = {}
    for point in sweep.points:
        wanted = replace(options, run_id=point.run_id, assignments=(*options.assignments, *point.settings))
        existing = request.find_run(wanted)
        configs[point.run_id] = (
            submit.config_for(site, wanted, existing) if site else request.config_of(wanted, existing)
        )
    return sweep, configs


def run_here(sweep: Sweep, configs: Configs) -> int:
    """Train all points in sequence, print the table, evaluate the best; return the exit code."""
    sweep.write()
    failures: dict[str, str] = {}
    for number, point in enumerate(sweep.points, 1):
        log.info("sweep: %d of %d: %s: %s", number, len(sweep.points), point.run_id, ", ".join(point.settings))
        run = runs.make(sweep.work, point.run_id)
        try:
            if run_stages(run, configs[point.run_id], "train"):
                raise ResumableError("sweep: stopped as asked; the same command resumes it")
        except ReportedError as error:
            if error.exit_code == ResumableError.exit_code:
                raise
            failures[point.run_id] = f"failed, see {run.logs}"
    found = results(sweep, failures)
    _tell(sweep, table(found))
    chosen = best(found)
    if chosen:
        run = sweep.run(chosen.point)
        run_stages(run, configs[chosen.point.run_id])
        print(f"best by validation: {chosen.point.run_id}: {', '.join(chosen.point.settings)}")
        print(result_line(run))
    return IdxtrainError.exit_code if failures else 0


def submit_sweep(sweep: Sweep, configs: Configs, site: Site) -> dict[str, str]:
    """Submit a sweep: prepare, all points as an array, the table; return the job IDs.

    Raises InputError where jobs of the sweep are queued, or Slurm refuses one.
    """
    names = {stage: script.job_name(sweep.name, stage) for stage in ("prepare", "train", "evaluate")}
    waiting = [found for found in queue.find(names.values()) if not found.over]
    if waiting:
        listed = ", ".join(f"{found.job} ({found.state})" for found in waiting)
        raise InputError(f"--name {sweep.name}: found its jobs in the queue: {listed}; wait for them, or scancel them")
    sweep.write()
    for point in sweep.points:
        run = runs.make(sweep.work, point.run_id)
        with RunLock(run):
            runs.freeze(run, configs[point.run_id])
            jobs = SlurmJobs(run)
            jobs.folder.mkdir(mode=0o700, exist_ok=True)
            write_json(jobs.site_file, site.model_dump(mode="json"))
            jobs.note("submitted", stages=["train"])
    texts = scripts(sweep, site)
    for stage, text in texts.items():
        write_text(sweep.folder / f"{stage}.sh", text)
    found: dict[str, str] = {}
    try:
        found["prepare"] = queue.submit(sweep.folder / "prepare.sh")
        found["train"] = queue.submit(sweep.folder / "train.sh", found["prepare"])
        # However the array ended: a table of the points that were trained is better than none.
        found["evaluate"] = queue.submit(sweep.folder / "evaluate.sh", found["train"], after_any=True)
    except IdxtrainError:
        queue.cancel(list(found.values()))
        raise
    for number, point in enumerate(sweep.points):
        first = {"prepare": found["prepare"]} if number == 0 else {}
        SlurmJobs(sweep.run(point)).write_jobs({**first, "train": f"{found['train']}_{number}"})
    return found


def scripts(sweep: Sweep, site: Site) -> dict[str, str]:
    """Return the three batch scripts."""
    first, number = sweep.run(sweep.points[0]), len(sweep.points)
    any_run = str(sweep.work.runs / f"{sweep.name}-%a")
    logs = script.escaped(sweep.work.runs / sweep.name)
    about = f"sweep {sweep.name}"
    prepare = script.Job(
        name=script.job_name(sweep.name, "prepare"),
        about=f"prepare of {about}",
        log=f"{script.escaped(first.slurm)}/prepare-%j.out",
        command=submit.job_command("prepare", first),
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
    return table(results(sweep, _failures(sweep)))


def finish(sweep: Sweep) -> int:
    """Print and keep the table of a sweep on Slurm; evaluate the best; return the exit code."""
    found = results(sweep, _failures(sweep))
    _tell(sweep, table(found))
    chosen = best(found)
    if chosen is None:
        print(f"idxtrain: sweep {sweep.name}: no point was trained; see the table", file=sys.stderr)
        return IdxtrainError.exit_code
    code = job.main("evaluate", sweep.run(chosen.point), os.environ)
    if code == 0:
        print(f"best by validation: {chosen.point.run_id}: {', '.join(chosen.point.settings)}")
        print(result_line(sweep.run(chosen.point)))
    return code


def _failures(sweep: Sweep) -> dict[str, str]:
    ended = {point.run_id: SlurmJobs(sweep.run(point)).last("train", "ended") for point in sweep.points}
    return {run_id: str(entry.get("why", "")) for run_id, entry in ended.items() if entry.get("code")}


def _tell(sweep: Sweep, lines: list[str]) -> None:
    write_text(sweep.folder / "table.txt", "\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    keep_others_from_writing()
    log_to_stderr()
    try:
        sys.exit(finish(read(sys.argv[2], Work(Path(sys.argv[1])))))
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
