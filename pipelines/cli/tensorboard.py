"""idxtrain tensorboard: curves, graph, weights and confusion matrices of runs in the browser."""

import sys
import threading
from typing import Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import WorkFolder
from pipelines.names import WORK

app = typer.Typer()


@app.command()
@reported()
def tensorboard(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN_ID…]", help="Run IDs. Default: all runs, later ones too.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1. Default: 6006, or the next free one.")
    ] = None,
    work: WorkFolder = WORK,
) -> None:
    """Show runs in TensorBoard until Ctrl-C.

    It shows curves, the graph, histograms of the weights, the first layer's filters and the confusion matrix of each
    validation. It listens on this machine alone.
    """
    from pipelines import request
    from pipelines.tensorboard import log_folder, start

    folder = request.work_dir(request.Options(work=work))
    chosen = [
        request.existing_run(request.Options(work=work, run_id=run_id)) for run_id in dict.fromkeys(run_ids or ())
    ]
    with log_folder(folder, chosen) as shown:
        print(start(shown, port), flush=True)
        print("press Ctrl-C to end", file=sys.stderr)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.exit(0)  # that is how it ends
