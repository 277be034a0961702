"""idxtrain convert: pictures, NumPy, CSV, CIFAR and Parquet to IDX, and back."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.errors import reported

app = typer.Typer()

EXAMPLES = """\b
Examples:
  idxtrain convert photos data --size 64x64    pictures in folders by class
  idxtrain convert mnist.npz data              x_train, y_train, x_test, y_test
  idxtrain convert digits.csv data --label -1  8x8 digits, class in last column
  idxtrain convert data pictures               IDX to PNG folders
  idxtrain convert data arrays.npz             IDX to NumPy
"""


_BACKGROUNDS = {"black": 0, "white": 255}


@app.command(epilog=EXAMPLES)
@reported()
def convert(
    source: Annotated[
        Path, typer.Argument(help="Folder, .tar, .tar.gz, .zip, .npz, .csv or .parquet.", readable=False)
    ],
    target: Annotated[Path, typer.Argument(help="New folder for IDX or PNG, or a new .npz.", readable=False)],
    to: Annotated[
        Literal["idx", "png", "npz"] | None, typer.Option(help="Form of TARGET. Default: idx; from IDX png, or npz.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resample pictures to this height and width (bicubic).")
    ] = None,
    channels: Annotated[Literal["1", "3"] | None, typer.Option(help="Make all pictures gray (1) or color (3).")] = None,
    background: Annotated[
        Literal["black", "white"] | None, typer.Option(help="Color behind transparent pixels. Default: refuse them.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="HxW[xC]", help="Shape of an image whose pixels are one row of numbers.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class: name, or number (-1: the last).")
    ] = None,
    element_type: Annotated[
        Literal["uint8", "int8", "int16", "int32", "float32", "float64"] | None,
        typer.Option("--type", help="Type of the pixels. Default: the narrowest that holds them."),
    ] = None,
    validation: Annotated[
        Literal["train", "test", "omit"] | None,
        typer.Option(help="What a validation split becomes. Default: refused."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out unusable files, listed in skipped.csv.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Write plain archives instead of .gz.")] = False,
) -> None:
    """Convert pictures, NumPy, CSV or Parquet to IDX, or back.

    The same source gives the same bytes. An existing TARGET is refused.
    """
    from jobs.convert.convert import convert_source
    from jobs.convert.options import Options

    options = Options(
        size=_pair(size),
        shape=_numbers(shape, "--shape", (2, 3)) if shape else None,
        channels=int(channels) if channels else None,
        background=_BACKGROUNDS[background] if background else None,
        label=label,
        element_type=element_type,
        validation=validation,
        skip_bad=skip_bad,
        plain=plain,
    )
    print(convert_source(source, target, options, to).summary())


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, width = _numbers(text, "--size", (2,))
    return height, width


def _numbers(text: str, option: str, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of text such as 28x28. Raises InputError for any other text."""
    from jobs.errors import InputError

    parts = text.lower().split("x")
    if len(parts) not in lengths or not all(re.fullmatch("[1-9][0-9]{0,5}", part) for part in parts):
        form = "HxW or HxWxC, e.g. 8x8" if 3 in lengths else "HxW, e.g. 28x28"
        raise InputError(f"{option}: found {text}, expected {form}; fix: give height, then width")
    return tuple(map(int, parts))
