"""All rows of a dataset as the driver sees them: their sketches, and the images that it fetches whole."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.dataset import SPLITS, Manifest, Split
from jobs.files import write_atomic
from jobs.parallel import map_ahead
from jobs.pixels import from_column, to_float
from jobs.prepare.findings.sketch import Sketch, joined, sketch_images
from jobs.prepare.findings.sketch_files import map_sketch, write_sketches
from jobs.progress import Progress
from jobs.shard_copies import local_path

Images = dict[int, NDArray[Any]]  # float32 [values] each, by row
# Returns the images at increasing positions (int64 [n], n ≥ 1) of a split: float32 [n, values].
Read = Callable[[Split, NDArray[Any]], NDArray[Any]]

MOST_CLASSES = 30  # with a mean image
_BATCH_BYTES = 4 << 20  # of float32 pixels: what a core's caches hold
_MEANS_FROM = 100  # shards: their sums are sent to the driver
_LONGEST_SIDE = 64  # of a mean image, in pixels


@dataclass(frozen=True)
class Sums:
    """Sums of thumbnails by class, float64 [≤ 30, height, width, channels], and of how many, int64 [≤ 30]."""

    images: NDArray[Any]
    counts: NDArray[Any]

    def __add__(self, other: "Sums") -> "Sums":
        """Add two: a segment that was made before another class came has fewer classes."""
        few, many = sorted((self, other), key=lambda each: len(each.counts))
        images, counts = many.images.copy(), many.counts.copy()
        images[: len(few.images)] += few.images
        counts[: len(few.counts)] += few.counts
        return Sums(images, counts)


@dataclass(frozen=True, kw_only=True)
class View:
    """What an executor makes of a shard, or what is kept of a segment. `sums`: None if images are not summed."""

    sketch: Sketch
    sums: Sums | None


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
        sketch, classes = joined(sketches), self._summed_classes
        counts = np.bincount(sketch.labels[sketch.labels < classes], minlength=classes)
        return View(sketch=sketch, sums=Sums(np.sum(sums, axis=0, dtype=np.float64), counts) if summed else None)

    @property
    def _summed_classes(self) -> int:
        return min(self.classes, MOST_CLASSES)

    def _sums(self, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        step = -(-max(self.shape[:2]) // _LONGEST_SIDE)
        small = images.reshape(-1, *self.shape)[:, ::step, ::step]
        one_hot = (labels == np.arange(self._summed_classes)[:, None]).astype(np.float32)
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
    _write_arrays(path, dict(vars(view.sketch)) | ({} if view.sums is None else vars(view.sums)))


def read_view(path: Path) -> View:
    """Return the view that `write_view` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        sketch = Sketch(**{name: arrays[name] for name in Sketch.__annotations__})
        return View(sketch=sketch, sums=Sums(arrays["images"], arrays["counts"]) if "images" in arrays else None)


def take_views(paths: Iterable[Path]) -> Iterator[View]:
    """Yield the view in each file, and remove the file: they take as much room as what is made of them."""
    for path in paths:
        yield read_view(path)
        path.unlink()


def write_sums(path: Path, sums: Sums) -> None:
    """Write sums atomically."""
    _write_arrays(path, vars(sums))


def read_sums(path: Path) -> Sums:
    """Return the sums that `write_sums` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Sums(arrays["images"], arrays["counts"])


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomic(path, write)


def is_summed(split: Split, number: int) -> bool:
    """Return whether the images of a split's shard are summed by class."""
    return split == "train" and number < _MEANS_FROM


def join(manifest: Manifest, views: Iterable[View], digests: NDArray[Any], folder: Path) -> Rows:
    """Return the views of all shards, at least one, as one. Takes one after another, so few are in memory.

    `digests`: void [rows]. `folder`: a new one, for the sketches.
    """
    split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [manifest.splits[name].rows for name in SPLITS])
    with Progress("prepare: looking at the images", len(split), "images") as progress:
        sums = write_views(folder, views, progress)
    classes = slice(len(manifest.labels))
    means = [] if sums is None else list(zip(sums.images[classes], sums.counts[classes].tolist(), strict=True))
    return Rows(
        sketch=map_sketch(folder),
        digests=digests,
        split=split,
        means=[(total / max(1, count), count) for total, count in means],
    )


def write_views(folder: Path, views: Iterable[View], progress: Progress | None = None) -> Sums | None:
    """Write the sketches of views into a new folder, one after another; return the sum of their sums."""
    total: Sums | None = None
    done = 0

    def sketches() -> Iterator[Sketch]:
        nonlocal total, done
        for view in views:
            if view.sums is not None:
                total = view.sums if total is None else total + view.sums
            yield view.sketch
            done += len(view.sketch)
            if progress is not None:
                progress.update(done)

    write_sketches(folder, sketches())
    return total


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
    """Return the images at increasing positions of a split of a dataset's files: a `Read`. All CPUs decode."""
    shards = manifest.splits[split].shards
    ends = np.cumsum([shard.rows for shard in shards])

    def places() -> Iterator[tuple[Path, NDArray[Any]]]:
        for here in np.split(positions, np.flatnonzero(np.diff(np.searchsorted(ends, positions, "right"))) + 1):
            number = int(np.searchsorted(ends, here[0], "right"))
            yield local_path(directory, shards[number]), here - (int(ends[number]) - shards[number].rows)

    def take(place: tuple[Path, NDArray[Any]]) -> NDArray[Any]:
        return _take(place[0], manifest.values_per_image, place[1])

    return np.concatenate(list(map_ahead(take, places(), len(os.sched_getaffinity(0)))))


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
