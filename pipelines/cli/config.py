"""idxtrain config: show the keys of the config and of a site."""

from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import Recipe

app = typer.Typer()


def complete_key(incomplete: str) -> list[str]:
    """Return the keys and sections that start with `incomplete`, for completion in the shell."""
    from pipelines.reference.keys import names

    return [name for name in names() if name.startswith(incomplete)]


@app.command()
@reported()
def config(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY|SECTION]",
            help="Key or section, e.g. train.batch_size, train or site. Default: the whole config.",
            autocompletion=complete_key,
        ),
    ] = None,
    recipe: Recipe = None,
) -> None:
    """Show the config's keys: meaning, values and defaults.

    With --recipe, shows the values of that recipe.
    """
    from pipelines.reference import keys, text

    if name is None:
        print(*text.overview(keys.config_sections(), recipe), sep="\n")
    else:
        print(*text.entry_text(keys.find(name), recipe), sep="\n")
