"""idxtrain submit, status, cancel and logs: parse, call, print."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from pipelines.cli.options import (
    Assignments,
    Data,
    Dataset,
    DryRun,
    Np,
    Recipe,
    RunId,
    Seed,
    SiteAssignments,
    SparkMaster,
    WorkFolder,
)
from pipelines.request import WORK, Options

ExitCodes = Callable[[], AbstractContextManager[None]]

SiteName = Annotated[str, typer.Option("--site", help="Site by name, or a .toml file; yours lie in IDXTRAIN_SITES.")]
Run = Annotated[str | None, typer.Argument(help="The run. Default: the one submitted last.")]


def register(app: typer.Typer, exit_codes: ExitCodes) -> None:
    """Add the commands. `exit_codes`: turns errors into exit codes, as for every command."""
    _register_submit(app, exit_codes)
    _register_sweep(app, exit_codes)

    @app.command()
    def status(run_id: Run = None, work: WorkFolder = WORK) -> None:
        """Tell what became of a run's Slurm jobs; ends with the exit code of the stage that failed, if one did."""
        with exit_codes():
            from pipelines import request
            from pipelines.slurm import status as jobs_status
            from pipelines.slurm.jobs import submitted_run

            jobs = submitted_run(run_id, request.place(Options(work=work)))
            found = jobs_status.rows(jobs)
            print(f"run {jobs.run.run_id}")
            print(*jobs_status.lines(jobs, found), sep="\n", flush=True)
            sys.exit(jobs_status.exit_code(found))

    @app.command()
    def cancel(
        run_id: Annotated[str, typer.Argument(help="The run.")],
        work: WorkFolder = WORK,
    ) -> None:
        """Cancel a run's Slurm jobs. What is done stays done: `submit --run-id` goes on with it."""
        with exit_codes():
            from pipelines import request
            from pipelines.slurm import status as jobs_status
            from pipelines.slurm.jobs import submitted_run

            cancelled = jobs_status.cancel(submitted_run(run_id, request.place(Options(work=work))))
            print(f"cancelled {', '.join(cancelled)}" if cancelled else "nothing to cancel: no job is queued")

    @app.command()
    def logs(
        run_id: Run = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until no job is queued.")] = False,
        work: WorkFolder = WORK,
    ) -> None:
        """Print what a run's Slurm jobs said."""
        with exit_codes():
            from pipelines import request
            from pipelines.slurm import status as jobs_status
            from pipelines.slurm.jobs import submitted_run

            for line in jobs_status.log_lines(submitted_run(run_id, request.place(Options(work=work))), follow):
                print(line, flush=True)


def _register_submit(app: typer.Typer, exit_codes: ExitCodes) -> None:
    @app.command()
    def submit(
        site: SiteName,
        data: Data = None,
        dataset: Dataset = None,
        recipe: Recipe = None,
        np: Np = None,
        assignments: Assignments = None,
        site_assignments: SiteAssignments = None,
        seed: Seed = None,
        spark_master: SparkMaster = None,
        work: WorkFolder = WORK,
        run_id: RunId = None,
        dry_run: DryRun = False,
    ) -> None:
        """Submit the pipeline to Slurm: prepare, train and evaluate, each a job of its own, chained."""
        options = Options(data, dataset, recipe, np, tuple(assignments or ()), seed, spark_master, work, run_id)
        with exit_codes():
            from jobs.run_dir import RunDir
            from pipelines import request
            from pipelines.slurm import submit as submission

            wanted = submission.load_site(site, site_assignments or ())
            existing = request.find_run(options)
            config = submission.config_for(wanted, options, existing)
            if dry_run:
                run = existing or RunDir(request.place(options).runs / (options.run_id or "RUN_ID"))
                print(submission.preview(wanted, run, config), end="")
                return
            run = request.open_run(options, existing, config)
            submitted = submission.submit(run, wanted, config)
            for stage, job in submitted.items():
                print(f"{stage:<9} {job}")
            if not submitted:
                print("nothing to submit: all stages are done")
            print(f"run {run.run_id} in {run.path}; `idxtrain status {run.run_id}` tells more", file=sys.stderr)


def _register_sweep(app: typer.Typer, exit_codes: ExitCodes) -> None:
    @app.command()
    def sweep(
        grid: Annotated[
            list[str] | None,
            typer.Option(metavar="SECTION.KEY=VALUE,VALUE…", help="Values of an option to try; repeatable: all pairs."),
        ] = None,
        name: Annotated[str | None, typer.Option(help="Name of the sweep; an existing one is gone on with.")] = None,
        site: Annotated[str | None, typer.Option(help="Slurm site, for an array. Default: here, in sequence.")] = None,
        table: Annotated[bool, typer.Option("--table", help="Print the table of the sweep as it is now.")] = False,
        data: Data = None,
        dataset: Dataset = None,
        recipe: Recipe = None,
        np: Np = None,
        assignments: Assignments = None,
        site_assignments: SiteAssignments = None,
        seed: Seed = None,
        work: WorkFolder = WORK,
        dry_run: DryRun = False,
    ) -> None:
        """Train a recipe at each point of a grid of options; one table, the best by validation is then tested."""
        options = Options(data, dataset, recipe, np, tuple(assignments or ()), seed, work=work)
        with exit_codes():
            from jobs.errors import InputError
            from pipelines import request
            from pipelines.runs import new_id
            from pipelines.slurm.submit import load_site
            from pipelines.sweep import run
            from pipelines.sweep.grid import read

            if table:
                if not name:
                    raise InputError("--table: expected --name, the sweep to show")
                print(*run.table_so_far(read(name, request.place(options))), sep="\n")
                return
            if not grid:
                raise InputError("--grid: expected at least one, e.g. --grid train.learning_rate=1e-4,1e-3")
            wanted = load_site(site, site_assignments or ()) if site else None
            planned, configs = run.plan(name or new_id("sweep"), tuple(grid), options, wanted)
            if dry_run:
                for point in planned.points:
                    print(f"{point.run_id}  {'  '.join(point.settings)}")
                if wanted:
                    print(*run.scripts(planned, wanted).values(), sep="\n", end="")
                return
            if wanted is None:
                sys.exit(run.run_here(planned, configs))
            for stage, job in run.submit_sweep(planned, configs, wanted).items():
                print(f"{stage:<9} {job}{f'_[0-{len(planned.points) - 1}]' if stage == 'train' else ''}")
            print(
                f"sweep {planned.name} of {len(planned.points)} runs; `idxtrain sweep --name {planned.name} --table` "
                f"tells how far it is, {planned.folder} has the table at the end",
                file=sys.stderr,
            )
