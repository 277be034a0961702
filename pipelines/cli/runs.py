"""idxtrain runs: the runs made so far."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import DryRun, WorkFolder
from pipelines.names import WORK

if TYPE_CHECKING:
    from jobs.run_dir import RunDir, Work

app = typer.Typer(name="runs", invoke_without_command=True)

WhichRun = Annotated[str, typer.Argument(help="Run ID.")]


@app.callback()
@reported()
def runs(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only runs with this state, recipe, data or seed; repeatable."),
    ] = None,
    newer_than: Annotated[str | None, typer.Option(metavar="AGE", help="Only newer runs, e.g. 12h or 7d.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most N runs; 0: all.", metavar="N")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    work: WorkFolder = WORK,
) -> None:
    """List the runs, or show, compare or remove some.

    The newest run comes first. A run is finished (tested), trained (not tested), running, queued (its Slurm jobs wait),
    stopped (it can be resumed) or unreadable.
    """
    if context.invoked_subcommand is not None:
        _require_no_options(context)
        return
    from jobs.errors import printable
    from pipelines.history.listing import as_json, filter_of, lines
    from pipelines.history.summary import summaries

    wanted = filter_of(only or (), newer_than)
    found = [each for each in summaries(_work(work)) if wanted(each)]
    shown = found[:limit] if limit else found
    if json:
        print(as_json(shown))
        return
    for line in lines(shown):
        print(printable(line))
    if len(shown) < len(found):
        print(f"… and {len(found) - len(shown):,} older; --limit 0 lists all")


def _require_no_options(context: typer.Context) -> None:
    """Raise InputError for an option of the list before another command, which would have no effect."""
    from jobs.errors import InputError

    given = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    if given:
        option, command = f"--{given[0].replace('_', '-')}", context.invoked_subcommand
        fix = f"put it after {command}" if option == "--work" else "leave it out"
        raise InputError(f"{option}: found before {command}, expected only for the list of runs; fix: {fix}")


@app.command("show")
@reported()
def show_run(run_id: WhichRun, work: WorkFolder = WORK) -> None:
    """Show a run: its options, result, times and files."""
    from jobs.errors import printable
    from pipelines.history.details import lines

    for line in lines(_run(work, run_id)):
        print(printable(line))


@app.command("compare")
@reported()
def compare_runs(one: WhichRun, other: WhichRun, work: WorkFolder = WORK) -> None:
    """Show how two runs differ, and whether one is better.

    The verdict is McNemar's exact test on the test images that only one of the two classifies correctly.
    """
    from jobs.errors import printable
    from pipelines.history.comparison import lines

    for line in lines((_run(work, one), _run(work, other))):
        print(printable(line))


@app.command("rm")
@reported()
def remove_runs(
    run_ids: Annotated[list[str], typer.Argument(help="Run IDs.", metavar="RUN_ID…")],
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Also remove the datasets that no other run uses.")
    ] = False,
    dry_run: DryRun = False,
    work: WorkFolder = WORK,
) -> None:
    """Remove runs.

    Runs in use, those whose Slurm jobs wait, and those that a registered model needs are refused.
    """
    from pipelines.history.removal import remove

    chosen = [_run(work, run_id) for run_id in dict.fromkeys(run_ids)]
    for line in remove(_work(work), chosen, with_data=with_data, is_dry=dry_run):
        print(line, flush=True)


@app.command("du")
@reported()
def measure_runs(work: WorkFolder = WORK) -> None:
    """Show what the work folder takes on the disk."""
    from pipelines.history.sizes import lines, parts

    print(*lines(parts(_work(work))), sep="\n")


def _work(work: Path) -> "Work":
    from jobs.errors import InputError
    from pipelines import request

    folder = request.work_dir(request.Options(work=work))
    if not folder.path.is_dir():
        raise InputError(f"--work {folder.path}: found no such folder, expected a work folder; fix: give its path")
    return folder


def _run(work: Path, run_id: str) -> "RunDir":
    from pipelines import request

    return request.existing_run(request.Options(work=work, run_id=run_id))
