"""idxtrain inspect: what is in IDX archives."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.errors import reported

app = typer.Typer()


@app.command()
@reported()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="IDX archive, or a folder of them.", readable=False)],
    html: Annotated[Path | None, typer.Option(help="Also write a page with more pictures to this file.")] = None,
) -> None:
    """Show what is in IDX archives: shape, classes, pictures."""
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
