"""idxtrain serve: a trained model over HTTP."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import ModelName, WorkFolder
from pipelines.names import WORK

if TYPE_CHECKING:
    from deploy.serving.sources import Source

app = typer.Typer()


@app.command("serve")
@reported()
def serve(
    which: Annotated[
        str | None, typer.Argument(metavar="[RUN|@ALIAS]", help="Run ID, or @champion. Default: the latest run.")
    ] = None,
    name: ModelName = "mnist",
    host: Annotated[str, typer.Option(help="Address to listen on. Beyond this machine, a token is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0: any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File of mode 0600 with the clients' token. Or set IDXTRAIN_TOKEN.", readable=False),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Images that the model computes at once.")] = 256,
    max_queue: Annotated[int, typer.Option(min=1, help="Images that may wait. More: 503.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests answered at the same time. More: 503.")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request. More: 413.")] = 4 << 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of a PNG or JPEG. More: 413.")] = 1_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a request. More: 413.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to send, to wait, to read.")] = 10.0,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds to accept requests after SIGTERM.")] = 1.0,
    work: WorkFolder = WORK,
) -> None:
    """Serve a trained model over HTTP, and follow the champion.

    POST /predict classifies a PNG or JPEG, raw pixels or an IDX archive. GET /health, /ready, /metrics and
    /openapi.json describe the server. See deploy/serving/README.md.
    """
    from deploy.serving.limits import Limits
    from deploy.serving.token import read_token, require_token

    token = read_token(token_file, os.environ)
    require_token(host, token)
    source = _source(which, name, work)
    limits = Limits(
        batch=max_batch,
        queue=max_queue,
        requests=max_requests,
        body=max_body,
        pixels=max_pixels,
        images=max_images,
        seconds=timeout,
    )
    from deploy.serving.server import Address, run

    run(source, Address(host=host, port=port, token=token), limits, drain)


def _source(which: str | None, name: str, work: Path) -> "Source":
    """Return where the model comes from; raise InputError if there is none."""
    from deploy.serving.candidate import Candidate
    from deploy.serving.sources import FollowedModel, OneModel
    from pipelines import model_choice, request
    from pipelines.retraining.retrain_dir import RetrainDir, require_name, require_registry

    if which is None or not which.startswith("@"):
        with model_choice.chosen_model(which, work=work) as file:
            return OneModel(Candidate(file, None, file.path.parent.name))
    require_name(name)
    folder = RetrainDir(request.work_dir(request.Options(work=work)), name)
    require_registry(folder, os.environ, changes=False)
    return FollowedModel(folder.work.path, name, which.removeprefix("@"))
