"""idxtrain report, stragglers: what a run reached, and where its time went."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import WorkFolder
from pipelines.names import WORK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.run_dir import RunDir

app = typer.Typer()


@app.command()
@reported()
def report(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN_ID…]", help="Run IDs. Default: the latest evaluated run.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the runs side by side.", readable=False)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    work: WorkFolder = WORK,
) -> None:
    """Show the result of a run, or of several side by side.

    A run's own page is RUN/report.html, which `evaluate` writes. --html FILE writes a page that compares two or more
    runs: options, accuracies, curves, confusions, and the errors that only one of them makes.
    """
    from jobs.errors import InputError, printable
    from pipelines.history.comparison import lines
    from pipelines.history.details import result_lines
    from pipelines.report.markdown import text
    from pipelines.report.page import write_page
    from pipelines.report.results import evaluated
    from pipelines.slurm import measured

    results = [evaluated(run) for run in _runs(run_ids or (), work)]
    runs = [each.run for each in results]
    if html is not None and len(runs) < 2:
        raise InputError(
            f"--html: found one run, expected two or more; fix: name another run, or open {runs[0].report_file}"
        )
    if html is not None:
        write_page(html, results)
        print(f"report {html}", file=sys.stderr)
    if markdown:
        print(text(results), end="")
    elif html is None and len(runs) == 1:
        print(f"run {runs[0].run_id}")
        for line in (*result_lines(results[0].metrics), *measured.lines(runs[0]), ""):
            print(printable(line))
        print(f"report {runs[0].report_file}")
    elif html is None:
        for line in lines(runs):
            print(printable(line))


def _runs(run_ids: "Sequence[str]", work: Path) -> "list[RunDir]":
    from pipelines import request

    if not run_ids:
        return [request.evaluated_run(request.Options(work=work))]
    return [request.existing_run(request.Options(work=work, run_id=run_id)) for run_id in dict.fromkeys(run_ids)]


@app.command()
@reported()
def stragglers(
    run_id: Annotated[str | None, typer.Argument(help="Run ID. Default: the latest run.")] = None,
    work: WorkFolder = WORK,
) -> None:
    """Show where training time went, rank by rank.

    Names the straggler, the rank that the others wait for, if there is one.
    """
    from pipelines import request
    from pipelines.straggler import lines

    print(*lines(request.recorded_run(request.Options(run_id=run_id, work=work))), sep="\n")
