"""The options that commands share: one definition each. Light, as `idxtrain --help` loads this module."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.fetch import data_sets


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes whose names start with `incomplete`, for completion in the shell."""
    from pipelines import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Return the data sets whose names start with `incomplete`, for completion in the shell."""
    return [name for name in data_sets.names() if name.startswith(incomplete)]


# readable=False: the commands check paths themselves and report in one line.
Data = Annotated[
    Path | None,
    typer.Option(help="Folder or s3:// URL of your IDX archives. Default: download --dataset.", readable=False),
]
DataFolder = Annotated[
    Path | None, typer.Option(help="Folder of your IDX archives. Default: download --dataset.", readable=False)
]
Dataset = Annotated[
    str | None,
    typer.Option(help="Data set name; see `idxtrain datasets`. Default: mnist.", autocompletion=complete_dataset),
]
TrainImages = Annotated[Path | None, typer.Option(help="Archive of the training images.", readable=False)]
TrainLabels = Annotated[Path | None, typer.Option(help="Archive of the training labels.", readable=False)]
TestImages = Annotated[Path | None, typer.Option(help="Archive of the test images.", readable=False)]
TestLabels = Annotated[Path | None, typer.Option(help="Archive of the test labels.", readable=False)]
Classes = Annotated[
    Path | None, typer.Option("--classes", help="Text file of class names, one per line.", readable=False)
]
Recipe = Annotated[
    str | None,
    typer.Option(help="Recipe name or .toml file; see `idxtrain recipes`.", autocompletion=complete_recipe),
]
Np = Annotated[int | None, typer.Option("--np", min=1, help="Number of ranks. Default: one per visible GPU, or 1.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set a config key; repeatable. See `idxtrain config`."),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Seed of weights, row order and dropout. Default: the recipe's, or 0.")
]
SparkMaster = Annotated[str | None, typer.Option(help="Spark master URL. Default: local, on this machine's CPUs.")]
WorkFolder = Annotated[Path, typer.Option("--work", help="Folder for archives, datasets and runs.", readable=False)]
RunId = Annotated[str | None, typer.Option(help="Run ID. An existing run is resumed.")]
_SITE = "Site name or .toml file; see `idxtrain config site`."
SiteName = Annotated[str, typer.Option("--site", help=_SITE)]
OptionalSiteName = Annotated[str | None, typer.Option("--site", help=_SITE)]
SiteAssignments = Annotated[
    list[str] | None,
    typer.Option("--site-set", metavar="KEY=VALUE", help="Set a site key, e.g. train.nodes=4; repeatable."),
]
ModelName = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
OptionalModelName = Annotated[str | None, typer.Option("--name", help="Name of the registered model.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse data with findings; see `prepare.accept`.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would happen and change nothing.")]
