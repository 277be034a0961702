"""idxtrain inspect: what is in IDX archives."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.errors import InputError
from pipelines.cli.errors import reported
from pipelines.cli.options import Assignments, Dataset, Recipe, RunId, Seed, WorkFolder
from pipelines.names import WORK

app = typer.Typer()


@app.command()
@reported()
def inspect(
    path: Annotated[
        Path | None, typer.Argument(metavar="FILE|DIR", help="IDX archive, or a folder of them.", readable=False)
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with more pictures to this file.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Train networks to find labels that may be incorrect.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(min=2, help="With --labels: networks, each trained without one fold. Default: 5.")
    ] = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    assignments: Assignments = None,
    seed: Seed = None,
    work: WorkFolder = WORK,
    run_id: RunId = None,
) -> None:
    """Show what is in IDX archives: shape, classes, pictures.

    With --labels, rank the labels of a folder, a --dataset or a --run-id by how doubtful they are. The recipe trains
    the networks.
    """
    if labels and html:
        raise InputError("--html: found with --labels, expected one of them; fix: leave one out")
    if labels:
        from pipelines.label_check import check_labels
        from pipelines.request import Options

        options = Options(
            data=path,
            dataset=dataset,
            recipe=recipe,
            assignments=tuple(assignments or ()),
            seed=seed,
            work=work,
            run_id=run_id,
        )
        print(check_labels(options, folds or 5))
        return
    given = {"folds": folds, "dataset": dataset, "recipe": recipe, "set": assignments, "seed": seed, "run-id": run_id}
    unused = next((option for option, value in given.items() if value not in (None, [])), None)
    if unused:
        raise InputError(f"--{unused}: found without --labels, expected both; fix: add --labels, or leave it out")
    if path is None:
        raise InputError("FILE|DIR: missing, expected an IDX archive or a folder; fix: name one, or give --labels")
    from jobs.inspect.archives import archives
    from jobs.inspect.survey import survey
    from jobs.inspect.terminal import screen
    from jobs.inspect.text import lines

    found = archives(path)
    parts = survey(found)
    if found.refusal:
        print(f"a training would refuse this folder: {found.refusal}", file=sys.stderr)
    print(*lines(found, parts, screen()), sep="\n")
    if html:
        from jobs.inspect.html import write_page

        write_page(html, found, parts)
        print(f"page in {html}", file=sys.stderr)
