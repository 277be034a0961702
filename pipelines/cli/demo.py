"""idxtrain demo: draw, and watch the network."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import ModelName, WorkFolder
from pipelines.names import WORK

app = typer.Typer()

WhichModel = Annotated[
    str | None, typer.Argument(metavar="RUN|@WHICH", help="Run, or @champion, @3. Default: latest run.")
]
OtherModel = Annotated[str | None, typer.Argument(metavar="OTHER", help="A second model, beside it.")]


@app.command()
@reported()
def demo(
    model: WhichModel = None,
    other: OtherModel = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine. 0: a free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the browser.")] = False,
    name: ModelName = "mnist",
    work: WorkFolder = WORK,
) -> None:
    """Draw a digit, and watch every layer of a model.

    The page is on this machine alone, and asks nothing of any other. Its address has a token that keeps other users
    out. Ctrl-C ends it.
    """
    from pipelines.demo import shown_models

    models = shown_models([model] if other is None else [model, other], name, work)

    import os
    import tempfile

    from jobs.demo.browser import open_address
    from jobs.demo.server import listen, serve

    def ready(address: str) -> None:
        print(f"the demo is at {address} (Ctrl-C ends it)", flush=True)
        if not no_open:
            open_address(address, Path(folder))

    # In the work folder where there is one: a browser in a sandbox may not read files outside the home.
    place = work if os.access(work, os.W_OK | os.X_OK) else None
    with listen(port) as listener, tempfile.TemporaryDirectory(prefix="demo-", dir=place) as folder:
        serve(models, listener, ready)
