"""idxtrain config: show the keys of the config and of a site."""

from typing import Annotated

import typer

from jobs.exit_codes import exit_codes
from pipelines.cli.options import complete_recipe

app = typer.Typer()


def complete_key(incomplete: str) -> list[str]:
    """Return the keys and sections that begin so: for the shell's completion."""
    from pipelines.reference.keys import names

    return [name for name in names() if name.startswith(incomplete)]


@app.command()
def config(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY|SECTION]",
            help="Key or section, e.g. train.batch_size, train or site. Default: all of the config.",
            autocompletion=complete_key,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Show the values of this recipe, by name or as a .toml file.", autocompletion=complete_recipe
        ),
    ] = None,
) -> None:
    """Show the config's keys: meaning, values and defaults."""
    with exit_codes():
        from pipelines.reference import keys, text

        values = keys.values_of(recipe) if recipe else {}
        if name is None:
            what = f"value in recipe {recipe}" if recipe else "default"
            lines = text.overview(keys.config_sections(), values, what)
            lines += ["", "site: the keys of a cluster, see `idxtrain config site`"]
        else:
            entry = keys.find(name)
            is_key = isinstance(entry, keys.Key)
            lines = text.key_text(entry, recipe) if is_key else text.sections_text(entry, values)
        print(*lines, sep="\n")
