"""idxtrain retrain: made for cron and other schedulers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import DataFolder, OptionalModelName
from pipelines.cli.output_log import output_to
from pipelines.cli.run_options import describes_run

if TYPE_CHECKING:
    from pipelines.request import Options

app = typer.Typer()


@app.command("retrain")
@reported()  # a fault of the log itself is reported on the terminal
@describes_run("run_id", data=DataFolder)
def retrain_model(
    options: "Options",
    name: OptionalModelName = None,
    warm_start: Annotated[bool, typer.Option("--warm-start", help="Start from the champion's weights.")] = False,
    notify: Annotated[
        str | None, typer.Option(help="Command that gets the outcome as JSON on stdin. See also IDXTRAIN_WEBHOOK.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train even if nothing is new.")] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Afterwards, prune all but the N newest runs.", metavar="N")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write all output to this file, not to the terminal. It rotates at 1 MB.")
    ] = None,
) -> None:
    """Retrain if there is new data; promote if the gate passes.

    Made for cron and other schedulers. Without --name, the model is registered under the name of its data set.
    --train-images and --train-labels name the pair without a tag: the pairs of --data come beside it.
    """
    with output_to(log), reported():
        from pipelines.retraining.retrain import RetrainOptions, retrain

        wanted = RetrainOptions(
            options=options, name=name, warm_start=warm_start, notify=notify, force=force, keep=keep
        )
        print(retrain(wanted).text)
