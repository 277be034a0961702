"""All rows of a dataset as the driver sees them: their sketches, and the images that it fetches whole."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Manifest, Split
from jobs.files import write_atomic
from jobs.pixels import from_column, to_float
from jobs.prepare.findings.sketch import Sketch, joined, sketch_images
from jobs.progress import Progress

Images = dict[int, NDArray[Any]]  # float32 [values] each, by row
# Returns the images at increasing positions (int64 [n], n ≥ 1) of a split: float32 [n, values].
Read = Callable[[Split, NDArray[Any]], NDArray[Any]]

MOST_CLASSES = 30  # with a mean image
DIGEST_BYTES = 16
_BATCH_BYTES = 4 << 20  # of float32 pixels: what a core's caches hold
_MEANS_FROM = 100  # shards: their sums are sent to the driver
_LONGEST_SIDE = 64  # of a mean image, in pixels


@dataclass(frozen=True, kw_only=True)
class View:
    """What an executor makes of a shard. `sums`: float64 [≤ 30, height, width, channels], by class, of thumbnails."""

    sketch: Sketch
    sums: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows, counted through the train, validation and test split.

    `digests`: void [n], of 16 bytes, equal for equal stored pixels. `split`: int8 [n], the number of each row's split
    in SPLITS. `means`: the mean image of each of the first classes, and of how many images; empty if there are none.
    """

    sketch: Sketch
    digests: NDArray[Any]
    split: NDArray[Any]
    means: list[tuple[NDArray[Any], int]]

    @property
    def is_test(self) -> NDArray[Any]:
        """Whether each row is in the test split: bool [n]."""
        return self.split == SPLITS.index("test")

    @property
    def is_flat(self) -> NDArray[Any]:
        """Whether each image has a single value: bool [n]."""
        flat: NDArray[Any] = self.sketch.highs == self.sketch.lows
        return flat


@dataclass(frozen=True)
class Look:
    """Makes the view of a shard. `shape`: height, width, channels. `classes`: of the whole dataset."""

    shape: tuple[int, int, int]
    classes: int

    def __call__(self, batches: Iterable[pa.RecordBatch], summed: bool) -> View:
        """Return the view of the dataset's columns. `summed`: whether to sum the images by class.

        To the last bit, a sketch depends on how the rows are cut into batches: see `batch_rows`.
        """
        sketches, sums = [], []
        for batch in batches:
            images, labels, indices = columns(batch)
            sketches.append(sketch_images(images, labels, indices, self.shape))
            if summed:
                sums.append(self._sums(images, labels))
        return View(sketch=joined(sketches), sums=np.sum(sums, axis=0, dtype=np.float64) if summed else None)

    def _sums(self, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        step = -(-max(self.shape[:2]) // _LONGEST_SIDE)
        small = images.reshape(-1, *self.shape)[:, ::step, ::step]
        one_hot = (labels == np.arange(min(self.classes, MOST_CLASSES))[:, None]).astype(np.float32)
        sums: NDArray[Any] = (one_hot @ small.reshape(len(images), -1)).reshape(-1, *small.shape[1:])
        return sums


def batch_rows(values: int) -> int:
    """Return the rows of a batch of images of N values."""
    return max(1, _BATCH_BYTES // (4 * values))


def columns(batch: pa.RecordBatch) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return images float32 [n, values], labels int32 [n] and indices int64 [n]; only bytes are copied, as floats."""
    image, label, index = (batch.column(name) for name in ("image", "label", "index"))
    return to_float(from_column(image)), label.to_numpy(), index.to_numpy()


def write_view(path: Path, view: View) -> None:
    """Write a view atomically, uncompressed, as .npz: about 220 bytes per row, too many for a result of Spark."""
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


def view_shards(directory: Path, manifest: Manifest) -> list[View]:
    """Return the views of all shards of a dataset's files, in order."""
    look, size = Look(manifest.shape, len(manifest.labels)), batch_rows(manifest.values_per_image)
    shards = [
        (shard.path, is_summed(split, number))
        for split in SPLITS
        for number, shard in enumerate(manifest.splits[split].shards)
    ]
    views = []
    with Progress("prepare: looking at the images", len(shards), "shards") as progress:
        for path, summed in shards:
            views.append(look(pq.ParquetFile(directory / path).iter_batches(size), summed))
            progress.update(len(views))
    return views


def join(manifest: Manifest, views: Sequence[View], digests: bytes) -> Rows:
    """Return the views of all shards, at least one, as one. `digests`: 16 bytes for each row."""
    sums = [(view.sums, view.sketch.labels) for view in views if view.sums is not None]
    means: list[tuple[NDArray[Any], int]] = []
    if sums:
        counts = np.bincount(np.concatenate([labels for _, labels in sums]), minlength=len(sums[0][0]))
        total = np.sum([each for each, _ in sums], axis=0)
        means = [(total[number] / max(1, counts[number]), int(counts[number])) for number in range(len(total))]
    return Rows(
        sketch=joined([view.sketch for view in views]),
        digests=np.frombuffer(digests, f"V{DIGEST_BYTES}"),
        split=np.repeat(np.arange(len(SPLITS), dtype=np.int8), [manifest.splits[name].rows for name in SPLITS]),
        means=means,
    )


def fetch(rows: Rows, read: Read, wanted: Sequence[int]) -> Images:
    """Return the images of these rows."""
    numbers = np.unique(np.array(wanted, np.int64))
    images: Images = {}
    for number, split in enumerate(SPLITS):
        of_split = numbers[rows.split[numbers] == number]
        if len(of_split):
            start = int(np.searchsorted(rows.split, number))
            images |= zip(of_split.tolist(), read(split, of_split - start), strict=True)
    return images


def read_parquet(directory: Path, manifest: Manifest, split: Split, positions: NDArray[Any]) -> NDArray[Any]:
    """Return the images at increasing positions of a split of a dataset's files: a `Read`."""
    first, parts = 0, []
    for shard in manifest.splits[split].shards:
        here = positions[(first <= positions) & (positions < first + shard.rows)] - first
        if len(here):
            parts.append(_take(directory / shard.path, manifest.values_per_image, here))
        first += shard.rows
    return np.concatenate(parts)


def _take(path: Path, values: int, positions: NDArray[Any]) -> NDArray[Any]:
    """Return the images at these positions of a shard, n ≥ 1; decode no more than up to the last."""
    first, parts = 0, []
    for batch in pq.ParquetFile(path).iter_batches(batch_rows(values), columns=["image"]):
        here = positions[(first <= positions) & (positions < first + len(batch))] - first
        parts.append(to_float(from_column(batch.column(0))[here]))
        first += len(batch)
        if first > positions[-1]:
            break
    return np.concatenate(parts)
