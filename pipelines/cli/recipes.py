"""idxtrain recipes: what each recipe is, what to expect, what it costs."""

from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import complete_recipe

app = typer.Typer(name="recipes", invoke_without_command=True)


@app.callback()
@reported()
def list_recipes(context: typer.Context) -> None:
    """List the recipes, or show one.

    The list shows each recipe's summary, expected accuracy, number of training images, and time.
    """
    from pipelines.recipes import load, names

    if context.invoked_subcommand is not None:
        return
    for name in names():
        about = load(name).about
        print(f"{name:<10} {about.summary}\n{'':<10} {about.expected}; {about.images:,} images; {about.time}")


@app.command("show")
@reported()
def show_recipe(
    name: Annotated[str, typer.Argument(help="Recipe name or .toml file.", autocompletion=complete_recipe)],
) -> None:
    """Print a recipe's TOML file."""
    from pipelines.recipes import load

    print(load(name).text, end="")
