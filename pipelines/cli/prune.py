"""idxtrain prune: remove what no model needs any longer."""

from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import DryRun, WorkFolder
from pipelines.names import WORK

app = typer.Typer()


@app.command()
@reported()
def prune(
    keep: Annotated[int, typer.Option(min=1, help="Keep the N newest runs of each model.", metavar="N")] = 5,
    versions: Annotated[
        bool,
        typer.Option("--versions", help="Also delete registry versions that have no alias and whose run is removed."),
    ] = False,
    dry_run: DryRun = False,
    work: WorkFolder = WORK,
) -> None:
    """Remove old retraining runs and the data only they used.

    The champion's run and runs in use are always kept.
    """
    from pipelines import request
    from pipelines.retraining.prune import Pruning, summary

    folder = request.work_dir(request.Options(work=work))
    removed = Pruning(folder, keep, is_dry=dry_run, versions=versions).run()
    for removal in removed:
        print(f"{'would remove' if dry_run else 'removed'} {removal.kind} {removal.name}")
    print(summary(removed))
