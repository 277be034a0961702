"""idxtrain datasets: the data sets that are known by name, and what a folder of one's own archives holds."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import WorkFolder, complete_dataset
from pipelines.names import WORK

app = typer.Typer()


@app.command()
@reported()
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="Name of a data set. Default: list all.", autocompletion=complete_dataset)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of your IDX archives.", readable=False)] = None,
    work: WorkFolder = WORK,
) -> None:
    """List the known data sets, or show one.

    With --data, shows what is in that folder of your own archives.
    """
    from pipelines import data_sets

    if data is not None:
        lines = data_sets.of_folder(data, name)
    elif name is not None:
        lines = data_sets.of_one(name, work)
    else:
        lines = data_sets.of_all(work)
    print(*lines, sep="\n")
