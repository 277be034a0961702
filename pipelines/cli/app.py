"""idxtrain: the commands of all groups, and the options of the program itself."""

from pipelines.cli import startup  # noqa: F401 # isort: skip  (first, as its docstring says)

from typing import Annotated

import typer

from jobs.logs import keep_writing
from jobs.umask import keep_others_from_writing
from pipelines.cli import (
    config,
    convert,
    datasets,
    demo,
    doctor,
    inspect,
    models,
    prune,
    recipes,
    retraining,
    run,
    runs,
    schedule,
    slurm,
    stdout,
    sweep,
)
from pipelines.cli.usage import Program

# \b: the lines below are shown as they are.
EXAMPLES = """\b
Examples:
  idxtrain run                                 train and test on MNIST
  idxtrain run --recipe lecture --np 2         another recipe, on two ranks
  idxtrain run --data FOLDER --set train.epochs=5
                                               your own archives, five epochs
  idxtrain run --run-id ID                     resume a run
  idxtrain plan --np 3                         show the training plan
"""

app = typer.Typer(
    cls=Program,
    epilog=EXAMPLES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help in half the time: Rich is loaded only where there is progress to show
    pretty_exceptions_enable=False,
)
# In this order `idxtrain --help` lists the commands: first steps, cluster, schedule.
app.add_typer(run.app)
app.add_typer(runs.app)
app.add_typer(demo.app)
app.add_typer(datasets.app)
app.add_typer(convert.app)
app.add_typer(inspect.app)
app.add_typer(recipes.app)
app.add_typer(config.app)
app.add_typer(doctor.app)
app.add_typer(slurm.app)
app.add_typer(sweep.app)
app.add_typer(retraining.app)
app.add_typer(schedule.app)
app.add_typer(models.app)
app.add_typer(prune.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"idxtrain {version('idxtrain')}")
        raise typer.Exit


@app.callback()
def idxtrain(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train and test an image classifier from IDX archives."""


def main() -> None:
    """Run the program `idxtrain`."""
    keep_others_from_writing()
    keep_writing()
    result = stdout.watch()
    try:
        app(prog_name="idxtrain")
    finally:
        result.finish()
