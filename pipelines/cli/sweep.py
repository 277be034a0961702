"""idxtrain sweep: one recipe at every point of a grid, here or as a Slurm array."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.words import counted
from pipelines.cli.errors import reported
from pipelines.cli.options import DryRun, OptionalSiteName, SiteAssignments
from pipelines.cli.run_options import describes_run

if TYPE_CHECKING:
    from deploy.slurm.site import Site
    from jobs.run_dir import Work
    from pipelines.request import Options
    from pipelines.sweep.grid import Sweep
    from pipelines.sweep.run import Configs

app = typer.Typer()


@app.command()
@reported()
@describes_run("spark_master", "run_id")
def sweep(
    *,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION.KEY=VALUE,VALUE…", help="Values of a config key to try; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Sweep name. With the same --grid, an existing sweep is resumed.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, metavar="K", help="Train each point K times, on K folds; the mean decides."),
    ] = None,
    site: OptionalSiteName = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --site: run at most N points at a time.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the results so far and start nothing.")] = False,
    options: "Options",
    site_assignments: SiteAssignments = None,
    dry_run: DryRun = False,
) -> None:
    """Train at each point of a grid; test the best one.

    The grid is every combination of the --grid values; 0..4 is short for 0,1,2,3,4. The best point has the highest
    validation accuracy. With several values of seed, or with --folds, it has the highest mean. With --folds, it is then
    trained once more, on the recipe's own split; with several seeds, its first run is tested. With --site, the points
    run as a Slurm array; without, one after another on this machine. `idxtrain status`, `logs` and `cancel` take the
    sweep's name.
    """
    from jobs.errors import InputError
    from pipelines import request
    from pipelines.runs import new_id
    from pipelines.slurm.submit import load_site
    from pipelines.sweep.run import plan_sweep, run_here

    if table:
        _print_results(name, request.work_dir(options))
        return
    if not grid:
        raise InputError(
            "--grid: found none, expected at least one; fix: add e.g. --grid train.learning_rate=1e-4,1e-3"
        )
    if at_once and not site:
        raise InputError(
            f"--at-once {at_once}: found no --site, expected one; fix: drop it: points run one after another here"
        )
    wanted = load_site(site, site_assignments or ()) if site else None
    planned, configs = plan_sweep(name or new_id("sweep"), tuple(grid), options, wanted, folds)
    if dry_run:
        _print_plan(planned, wanted, at_once or 0)
    elif wanted is None:
        sys.exit(run_here(planned, configs))
    else:
        _submit(planned, configs, wanted, at_once or 0)


def _print_results(name: str | None, work: "Work") -> None:
    from jobs.errors import InputError
    from pipelines.sweep.grid import read_sweep
    from pipelines.sweep.run import table_so_far

    if not name:
        raise InputError("--table: found no --name, expected the name of a sweep; fix: add --name")
    print(*table_so_far(read_sweep(name, work)), sep="\n")


def _print_plan(planned: "Sweep", site: "Site | None", at_once: int) -> None:
    from pipelines.sweep.run import batch_scripts

    for point in planned.points:
        print(f"{point.run_id}  {'  '.join(point.assignments)}")
    if site:
        print(*batch_scripts(planned, site, at_once).values(), sep="\n", end="")


def _submit(planned: "Sweep", configs: "Configs", site: "Site", at_once: int) -> None:
    from pipelines.sweep.run import submit_sweep

    for stage, job in submit_sweep(planned, configs, site, at_once).items():
        print(f"{stage:<9} {job}{f'_[0-{len(planned.points) - 1}]' if stage == 'train' else ''}")
    print(
        f"sweep {planned.name} of {counted(len(planned.points), 'run')}; follow it with "
        f"`idxtrain status {planned.name}`; {planned.folder} has the table at the end",
        file=sys.stderr,
    )
