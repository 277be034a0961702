"""idxtrain submit, status, logs, cancel: the pipeline as Slurm jobs."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import DryRun, OptionalSiteName, SiteAssignments, WorkFolder
from pipelines.cli.run_options import describes_run
from pipelines.names import WORK

if TYPE_CHECKING:
    from pipelines.request import Options
    from pipelines.slurm.jobs import SlurmJobs

app = typer.Typer()

SubmittedRun = Annotated[str | None, typer.Argument(help="Run ID. Default: the run submitted last.")]


@app.command("submit")
@reported()
@describes_run()
def submit_run(
    options: "Options",
    site: OptionalSiteName = None,
    site_assignments: SiteAssignments = None,
    as_measured: Annotated[
        str | None, typer.Option(metavar="RUN", help="Request what that run used, and a quarter to a half more.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Submit the pipeline to Slurm as a chain of jobs.

    The jobs are prepare, train and evaluate; each waits for the one before. Finished stages are skipped. A run that was
    submitted before goes to the same site again, unless --site names another.
    """
    from jobs.run_dir import RunDir
    from pipelines import request
    from pipelines.slurm.submit import config_for, load_site, preview, submit

    existing = request.find_run(options)
    measured = request.existing_run(replace(options, run_id=as_measured)) if as_measured else None
    wanted = load_site(site, site_assignments or (), existing, measured)
    config = config_for(wanted, options, existing)
    if dry_run:
        run = existing or RunDir(request.work_dir(options).runs / (options.run_id or "RUN_ID"))
        print(preview(wanted, run, config), end="")
        return
    if existing is None:
        request.check_archives(config)
    run = request.open_run(options, existing, config)
    submitted = submit(run, wanted, config, os.environ)
    for stage, job in submitted.items():
        print(f"{stage:<9} {job}")
    if not submitted:
        print("nothing to submit: all stages are done")
    print(f"run {run.run_id} in {run.path}; follow it with `idxtrain status {run.run_id}`", file=sys.stderr)


@app.command("status")
@reported()
def show_status(
    run_id: Annotated[
        str | None, typer.Argument(help="Run ID. Default: the run submitted last, else the latest run.")
    ] = None,
    work: WorkFolder = WORK,
) -> None:
    """Show how far a run is: its stages or Slurm jobs.

    A training shows its step, images per second, the last validation, and the time left. Exits with the exit code of
    the first Slurm job that failed, or 0.
    """
    from pipelines import request
    from pipelines.history import status
    from pipelines.slurm import measured
    from pipelines.slurm.jobs import is_submitted, submitted_run
    from pipelines.slurm.status import exit_code, lines, rows

    options = request.Options(work=work, run_id=run_id)
    folder = request.work_dir(options)
    if not is_submitted(run_id, folder):
        run = request.existing_run(options)
        print(f"run {run.run_id}")
        print(*status.lines(run), *measured.lines(run), sep="\n")
        return
    jobs = submitted_run(run_id, folder)
    stages = rows(jobs)
    print(f"run {jobs.run.run_id}")
    print(*lines(jobs, stages), *measured.lines(jobs.run), sep="\n", flush=True)
    sys.exit(exit_code(stages))


@app.command("logs")
@reported()
def show_logs(
    run_id: SubmittedRun = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until no job is queued.")] = False,
    work: WorkFolder = WORK,
) -> None:
    """Print the logs of a run's Slurm jobs."""
    from pipelines.slurm.status import log_lines

    for line in log_lines(_submitted(run_id, work), follow):
        print(line, flush=True)


@app.command("cancel")
@reported()
def cancel_jobs(
    run_id: Annotated[str, typer.Argument(help="Run ID.")],
    work: WorkFolder = WORK,
) -> None:
    """Cancel a run's Slurm jobs.

    Finished stages stay finished: `idxtrain submit --run-id` resumes the run.
    """
    from pipelines.slurm.status import cancel

    cancelled = cancel(_submitted(run_id, work))
    print(f"cancelled {', '.join(cancelled)}" if cancelled else "nothing to cancel: no job is queued")


def _submitted(run_id: str | None, work: Path) -> "SlurmJobs":
    from pipelines import request
    from pipelines.slurm.jobs import submitted_run

    return submitted_run(run_id, request.work_dir(request.Options(work=work)))
