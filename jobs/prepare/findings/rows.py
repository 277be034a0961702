"""All rows of a dataset as the driver sees them: their sketches, and the images that it fetches whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Manifest, Shard, Split
from jobs.files import write_atomic
from jobs.prepare.findings.sketch import Sketch, read_shard, sketch_images

# What runs tasks: `Spark.collect`, or `in_this_process`.
Run = Callable[[str, Callable[[Any], Any], Sequence[Any]], list[Any]]

MOST_CLASSES = 30  # with a mean image
_BATCH = 256  # rows decoded at a time
_MEANS_FROM = 100  # shards: their sums are sent to the driver
_LONGEST_SIDE = 64  # of a mean image, in pixels


@dataclass(frozen=True, kw_only=True)
class View:
    """What an executor makes of a shard. `sums`: float32 [≤ 30, height, width, channels], by class, of thumbnails."""

    sketch: Sketch
    sums: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows, counted through the train, validation and test split.

    `split`: int8 [n], the number of each row's split in SPLITS. `starts`: int64, the first row of each shard. `means`:
    the mean image of each of the first classes, and of how many images; empty if there are none.
    """

    sketch: Sketch
    split: NDArray[Any]
    shards: tuple[Shard, ...]
    starts: NDArray[Any]
    means: list[tuple[NDArray[Any], int]]

    @property
    def is_test(self) -> NDArray[Any]:
        """Whether each row is in the test split: bool [n]."""
        return self.split == SPLITS.index("test")


@dataclass(frozen=True)
class Look:
    """Makes the views of shards. `shape`: height, width, channels. `classes`: of the whole dataset."""

    shape: tuple[int, int, int]
    classes: int

    def __call__(self, images: NDArray[Any], labels: NDArray[Any], indices: NDArray[Any], summed: bool) -> View:
        """Return the view of images float32 [n, values]. `summed`: whether to sum them by class."""
        sums = self._sums(images, labels) if summed else None
        return View(sketch=sketch_images(images, labels, indices, self.shape), sums=sums)

    def _sums(self, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        step = -(-max(self.shape[:2]) // _LONGEST_SIDE)
        small = images.reshape(-1, *self.shape)[:, ::step, ::step]
        one_hot = (labels == np.arange(min(self.classes, MOST_CLASSES))[:, None]).astype(np.float32)
        sums: NDArray[Any] = (one_hot @ small.reshape(len(images), -1)).reshape(-1, *small.shape[1:])
        return sums


def write_view(path: Path, view: View) -> None:
    """Write a view atomically, uncompressed, as .npz: about 240 bytes per row, too many for a result of Spark."""
    arrays = dict(vars(view.sketch)) | ({} if view.sums is None else {"sums": view.sums})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomic(path, write)


def read_view(path: Path) -> View:
    """Return the view that `write_view` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        sketch = Sketch(**{name: arrays[name] for name in Sketch.__annotations__})
        return View(sketch=sketch, sums=arrays.get("sums"))


def is_summed(split: Split, number: int) -> bool:
    """Return whether the images of a split's shard are summed by class."""
    return split == "train" and number < _MEANS_FROM


def view_shards(directory: Path, manifest: Manifest, run: Run) -> list[View]:
    """Return the views of all shards of a finished dataset, in order."""
    tasks = [
        (shard.path, is_summed(split, number))
        for split in SPLITS
        for number, shard in enumerate(manifest.splits[split].shards)
    ]
    look = Look(manifest.shape, len(manifest.labels))
    return run("prepare: looking at the images", partial(_view, directory, look), tasks)


def _view(directory: Path, look: Look, task: tuple[str, bool]) -> View:
    path, summed = task
    return look(*read_shard(directory / path, prod(look.shape)), summed)


def join(manifest: Manifest, views: Sequence[View]) -> Rows:
    """Return the views of all shards as one; there is at least one shard."""
    parts = [view.sketch for view in views]
    sketch = Sketch(
        **{name: np.concatenate([getattr(each, name) for each in parts]) for name in Sketch.__annotations__}
    )
    sums = [(view.sums, view.sketch.labels) for view in views if view.sums is not None]
    means: list[tuple[NDArray[Any], int]] = []
    if sums:
        counts = np.bincount(np.concatenate([labels for _, labels in sums]), minlength=len(sums[0][0]))
        total = np.sum([each for each, _ in sums], axis=0, dtype=np.float64)
        means = [(total[number] / max(1, counts[number]), int(counts[number])) for number in range(len(total))]
    return Rows(
        sketch=sketch,
        split=np.repeat(np.arange(len(SPLITS), dtype=np.int8), [manifest.splits[name].rows for name in SPLITS]),
        shards=tuple(shard for name in SPLITS for shard in manifest.splits[name].shards),
        starts=np.cumsum([0, *map(len, parts)])[:-1],
        means=means,
    )


def fetch(
    directory: Path,
    manifest: Manifest,
    rows: Rows,
    run: Run,
    wanted: Sequence[int],
) -> dict[int, NDArray[Any]]:
    """Return the images of these rows, float32 [values] each, by row."""
    numbers = np.unique(np.array(wanted, np.int64))
    at = np.searchsorted(rows.starts, numbers, side="right") - 1
    tasks = [
        (rows.shards[shard].path, (numbers[at == shard] - rows.starts[shard]).tolist())
        for shard in np.unique(at).tolist()
    ]
    parts = run("prepare: fetching images", partial(_take, directory, manifest.values_per_image), tasks)
    return dict(zip(numbers.tolist(), (image for part in parts for image in part), strict=True))


def _take(directory: Path, values: int, task: tuple[str, list[int]]) -> list[NDArray[Any]]:
    """Return the images at these positions of a shard, which increase; decode no more than up to the last."""
    path, positions = task
    images: list[NDArray[Any]] = []
    first = 0
    for batch in pq.ParquetFile(directory / path).iter_batches(_BATCH, columns=["image"]):
        here = [position - first for position in positions if first <= position < first + len(batch)]
        if here:
            block = batch.column(0).flatten().to_numpy().reshape(-1, values)
            images += [block[position].copy() for position in here]
        first += len(batch)
        if len(images) == len(positions):
            break
    return images
