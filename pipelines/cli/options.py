"""The options that the commands share. Light: `idxtrain --help` loads this and nothing more."""

from pathlib import Path
from typing import Annotated

import typer


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes that begin so: for the shell's completion."""
    from pipelines import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


Data = Annotated[
    Path | None,
    # readable: left to us, who say it in one line
    typer.Option(help="Folder with the four IDX archives. Default: download or unpack --dataset.", readable=False),
]
Dataset = Annotated[str | None, typer.Option(help="Data set of the catalog: mnist (default), fashion-mnist, kmnist.")]
Recipe = Annotated[
    str | None,
    typer.Option(help="Recipe by name, or a .toml file; see `idxtrain recipes`.", autocompletion=complete_recipe),
]
Np = Annotated[int | None, typer.Option("--np", min=1, help="Ranks to train on. Default: one a visible GPU, else one.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set an option of the config; repeatable."),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Seed of weights, row order and masks. Default: the recipe's or 0.")
]
SparkMaster = Annotated[str | None, typer.Option(help="Spark master URL. Default: local, on this machine's CPUs.")]
WorkFolder = Annotated[Path, typer.Option("--work", help="Folder for archives, datasets and runs.", readable=False)]
RunId = Annotated[str | None, typer.Option(help="Name of the run; an existing one is gone on with.")]
SiteAssignments = Annotated[
    list[str] | None,
    typer.Option("--site-set", metavar="KEY=VALUE", help="Set a value of the site, e.g. train.nodes=4; repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
