"""idxtrain predict: classify images that nobody labeled."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.orientation import Orientation
from pipelines.cli.errors import reported
from pipelines.cli.options import ModelName, WorkFolder
from pipelines.names import WORK

app = typer.Typer()

EXAMPLES = """\b
Examples:
  idxtrain predict seven.png four.jpg          by the latest run; CSV on stdout
  idxtrain predict scans --resize --top 3      all pictures of a folder
  idxtrain predict t10k-images-idx3-ubyte.gz --out predictions.parquet
  idxtrain predict images.npz --model @champion --name digits --out p.csv
"""

_BACKGROUNDS = {"black": 0, "white": 255}


@app.command(epilog=EXAMPLES)
@reported()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Pictures, folders, .zip, .tar; IDX, .npz or .npy.", readable=False),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "--run-id", metavar="RUN|@WHICH", help="Run, or @champion, @3. Default: latest run."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .json, .jsonl or .parquet.", readable=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image, the most probable first.")] = 1,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of an IDX archive: also show the accuracy.", readable=False)
    ] = None,
    array: Annotated[str | None, typer.Option(metavar="NAME", help="Array of a .npz.")] = None,
    orientation: Annotated[
        Orientation | None,
        typer.Option(metavar="TURN", help="What turns arrays upright. Default: training's."),
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Resample pictures of another size (bicubic).")] = False,
    background: Annotated[
        Literal["black", "white"] | None, typer.Option(help="Color behind transparent pixels. Default: refuse them.")
    ] = None,
    polarity: Annotated[
        Literal["auto", "keep", "invert"] | None,
        typer.Option(help="Whether to invert pictures. Default: auto, where it is sure."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable pictures; log them.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Take every N-th batch, from the I-th on. Default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 500,
    name: ModelName = "mnist",
    work: WorkFolder = WORK,
) -> None:
    """Classify images: label, name and probability of each.

    Without --out, the rows go to stdout as CSV.
    """
    from jobs.predict.files import predict_files
    from jobs.predict.inputs import Reading
    from jobs.predict.output import check
    from jobs.predict.source import ALL, parse_share
    from pipelines.model_choice import chosen_model

    if out:
        check(out)
    reading = Reading(
        batch_size=batch_size,
        labels=labels,
        array=array,
        orientation=orientation,
        resize=resize,
        background=_BACKGROUNDS[background] if background else None,
        polarity=polarity,
        share=ALL if shard is None else parse_share(shard),
    )
    with chosen_model(model, name=name, work=work) as file:
        summary = predict_files(file, inputs, reading, top=top, out=out, skip_bad=skip_bad)
    for line in summary.lines(file.title):
        print(line, file=sys.stdout if out else sys.stderr)
