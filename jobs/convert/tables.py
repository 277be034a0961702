"""Collect images that come as blocks of numbers with labels: CSV, NumPy, CIFAR, Parquet."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.convert.collected import Collected
from jobs.convert.labels import ClassColumn, Value
from jobs.convert.options import Options, Split
from jobs.convert.staging import Staging
from jobs.errors import InputError
from jobs.progress import Progress
from jobs.words import counted


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some images of a split and their classes. `images`: [n, values], [n, height, width] or with channels last.

    `position`: of blocks of one split in the archive; equal ones stay in the order read.
    """

    split: Split
    images: NDArray[Any]
    classes: list[Value]
    position: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source of numbers: its blocks, the number of images if known, and class names by label if it has any."""

    blocks: Iterable[Block]
    rows: int | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    is_bytes: bool = False  # the values have a known range, 0 to 255


def collect(source: Path, table: Table, staging: Staging, options: Options) -> Collected:
    """Read a whole table. Raises InputError if its rows are not images of one shape."""
    parts: dict[Split, list[tuple[str, int, int]]] = {"train": [], "test": []}
    column = ClassColumn()
    with Progress(f"reading {source}", table.rows, "images") as progress:
        for block in table.blocks:
            images = as_images(block.images, options, str(source))
            if staging.rows and images.shape[1:] != staging.shape:
                raise InputError(
                    f"{source}: found images of {by(images.shape[1:])} after images of {by(staging.shape)}, expected "
                    "one shape; fix: convert them apart, or give them one shape first"
                )
            parts[block.split].append((block.position, staging.rows, staging.rows + len(images)))
            staging.append(images)
            column.extend(block.classes)
            progress.update(staging.rows)
    labels, names = column.encode(str(source))
    order = {
        split: np.concatenate([np.arange(start, stop) for _, start, stop in sorted(ranges, key=lambda each: each[0])])
        for split, ranges in parts.items()
        if ranges
    }
    return Collected(
        staging=staging,
        order=order,
        labels={split: labels[rows] for split, rows in order.items()},
        class_names=names or dict(table.class_names),
        is_numbers=not table.is_bytes,
    )


def as_images(values: NDArray[Any], options: Options, name: str) -> NDArray[Any]:
    """Return images [n, height, width, channels] of flat rows, [n, height, width] or [n, height, width, channels].

    Flat rows need `options.shape`, unless they are square and gray. 1 or 3 channels before the height are moved last.
    Raises InputError for values that are no images.
    """
    shape = values.shape
    if values.ndim == 2 and values.shape[1]:
        values = values.reshape(-1, *_row_shape(values.shape[1], options, name))
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or 0 in values.shape[1:]:
        raise InputError(
            f"{name}: found images of shape {by(shape[1:]) or 'one number'}, expected height x width, maybe x "
            "channels; fix: give arrays of 3 or 4 dimensions, or flat rows with --shape HxW"
        )
    if values.shape[1] in (1, 3) and values.shape[3] not in (1, 3) and options.shape is None:
        values = np.moveaxis(values, 1, 3)
    return values


def _row_shape(count: int, options: Options, name: str) -> tuple[int, ...]:
    side = math.isqrt(count)
    shape = options.shape or (side, side)
    if math.prod(shape) != count:
        found = f"{name}: found {counted(count, 'value')} per image, expected {by(shape)} = {math.prod(shape):,}"
        if options.shape is None:
            found = f"{name}: found {counted(count, 'value')} per image, expected a square number"
        raise InputError(f"{found}; fix: give the shape as --shape HxW or HxWxC")
    return shape


def by(shape: Iterable[int]) -> str:
    """Return a shape for people, e.g. "28 x 28"."""
    return " x ".join(map(str, shape))
