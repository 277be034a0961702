"""All rows of a dataset as the driver sees them: their sketches, and the images that it fetches whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Manifest, Shard
from jobs.prepare.findings.sketch import Sketch, read_shard, sketch_images

MOST_CLASSES = 30  # with a mean image
_MEANS_FROM = 100  # shards: their sums are sent to the driver
_LONGEST_SIDE = 64  # of a mean image, in pixels


@dataclass(frozen=True, kw_only=True)
class View:
    """What an executor returns of a shard. `sums`: float32 [≤ 30, height, width, channels], by class, of thumbnails."""

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


def look_at_shard(directory: Path, manifest: Manifest, shard: Shard) -> View:
    """Return what the driver needs of a shard; runs on an executor."""
    images, labels, indices = read_shard(directory / shard.path, manifest.values_per_image)
    sums = None
    if shard.path in {each.path for each in manifest.splits["train"].shards[:_MEANS_FROM]}:
        height, width, channels = manifest.shape
        step = -(-max(height, width) // _LONGEST_SIDE)
        small = images.reshape(-1, height, width, channels)[:, ::step, ::step]
        one_hot = (labels == np.arange(min(manifest.classes, MOST_CLASSES))[:, None]).astype(np.float32)
        sums = (one_hot @ small.reshape(len(images), -1)).reshape(-1, *small.shape[1:])
    return View(sketch=sketch_images(images, labels, indices, manifest.shape), sums=sums)


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
    run: Callable[[str, Callable[[Any], Any], Sequence[Any]], list[Any]],
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


def _take(directory: Path, values: int, task: tuple[str, list[int]]) -> NDArray[Any]:
    path, positions = task
    return read_shard(directory / path, values)[0][positions]
