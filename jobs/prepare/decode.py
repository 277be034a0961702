"""The work of Spark's executors: survey a range of an archive, and write the rows of a shard as Parquet.

pyarrow writes the files. Spark's DataFrame writer takes every pixel through a Java row, which is five times slower, and
has no option for the number of rows in a row group.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.dataset import Normalization, PixelType, Shard, Split
from jobs.dataset_store import StoreFolder
from jobs.errors import InputError
from jobs.files import sha256_file, write_atomic, write_bytes
from jobs.orientation import Orientation
from jobs.pixels import LEVELS, to_column, to_float
from jobs.prepare.archives import Pair, image_shape
from jobs.prepare.findings.rows import Look, batch_rows, is_summed, write_view
from jobs.prepare.labels import ClassMap
from jobs.prepare.orientation import upright, upright_shape
from jobs.prepare.plan import ShardPlan
from jobs.prepare.row_files import RowFiles
from jobs.prepare.survey import Moments, survey
from jobs.shard_copies import private_folder

# Floats have few distinct values: a dictionary saves most of their bytes. Images as a whole have not, and LZ4 decodes
# twice as fast as zstd; figures in tests/benchmarks/TRIED.md.
_PARQUET: dict[PixelType, dict[str, Any]] = {
    "float32": {"compression": "zstd", "compression_level": 1, "write_statistics": ["label", "index"]},
    "uint8": {"compression": "lz4", "use_dictionary": ["label"], "write_statistics": ["label", "index"]},
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A shard, the numbers of the classes that it holds, int32 [n], and the rows of each, int64 [n].

    `view`: the file of the shard's view, for the findings, if the decoder makes it.
    """

    shard: Shard
    classes: NDArray[Any]
    rows: NDArray[Any]
    view: Path | None


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """All that an executor needs to survey and decode any rows of the dataset; small, pickled once per Spark job.

    `pixels`: the type that the dataset stores; uint8 only of images that are uint8.
    `first_index`: the `index` of archive row 0, nonzero only in segments (`jobs.segments`). `views`: whether to look at
    the images for the findings while they are in memory, which saves reading them again; views go beside the row files.
    `store`: where shards go, if not into the dataset's folder.
    """

    rows: RowFiles
    train: Pair
    test: Pair
    classes: ClassMap
    orientation: Orientation = "none"
    pixels: PixelType = "float32"
    first_index: int = 0
    views: bool = False
    store: StoreFolder | None = None

    def pair(self, split: Split) -> Pair:
        """Return the archives of a split."""
        return self.test if split == "test" else self.train

    def survey(self, task: tuple[Split, int, int]) -> Moments:
        """Survey rows [start, stop) of a split: task = (split, start, stop). Digests go beside the row files."""
        split, start, stop = task
        result = survey(self.pair(split), self.rows.read(split, start, stop))
        write_bytes(self.digest_file(split, start), result.digests)
        return result.moments

    def digest_file(self, split: Split, start: int) -> Path:
        """Return the file of the digests of a surveyed range: 16 bytes per row, too many for a result of Spark."""
        return self.rows.directory / f"{split}-{start}.digests"

    def write(self, normalization: Normalization, directory: Path, shard: ShardPlan) -> Written:
        """Write one shard as a Parquet file of one row group.

        Spark may retry a task or run it twice: it writes the same bytes under the same name, by a rename.
        """
        batches = list(self._batches(normalization, shard))
        table = pa.Table.from_batches(batches)
        options = {"row_group_size": len(table), **_PARQUET[self.pixels]}
        with self._file(directory, shard) as path:
            write_atomic(path, lambda temporary: pq.write_table(table, temporary, **options))
            result = Shard(
                path=shard.path,
                rows=len(table),
                first_index=table["index"][0].as_py(),
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
        classes, rows = np.unique(table["label"].to_numpy(), return_counts=True)
        view = self._view(batches, shard) if self.views else None
        return Written(shard=result, classes=classes, rows=rows, view=view)

    @contextmanager
    def _file(self, directory: Path, shard: ShardPlan) -> Iterator[Path]:
        """Yield where to write a shard; with a store, a file on this node, which is uploaded and removed at the end."""
        if self.store is None:
            yield directory / shard.path
            return
        path = private_folder() / f".{secrets.token_hex(4)}.{shard.split}-{shard.number}.parquet"
        try:
            yield path
            self.store.put(path, shard.path)
        finally:
            path.unlink(missing_ok=True)

    def _view(self, batches: Sequence[pa.RecordBatch], shard: ShardPlan) -> Path:
        shape = upright_shape(image_shape(self.pair(shard.split).image_header), self.orientation)
        look = Look(shape, len(self.classes.labels))
        path = self.rows.directory / f"{shard.split}-{shard.number}.view.npz"
        write_view(path, look(batches, is_summed(shard.split, shard.number)))
        return path

    def _batches(self, normalization: Normalization, shard: ShardPlan) -> Iterator[pa.RecordBatch]:
        pair = self.pair(shard.split)
        step = batch_rows(prod(image_shape(pair.image_header)))
        for first in range(shard.start, shard.stop, step):
            rows = self.rows.read(shard.split, first, min(first + step, shard.stop))
            numbers = self.classes.numbers(pair.read_labels(rows))
            if (numbers < 0).any():
                raise changed_labels(pair)
            yield to_batch(self._images(normalization, shard.split, rows), numbers, rows + self.first_index)

    def read(self, normalization: Normalization, split: Split, positions: NDArray[Any]) -> NDArray[Any]:
        """Return the images at increasing positions of a split: float32 [n, values] in [0, 1]."""
        images = self._images(normalization, split, self.rows.whole(split)[positions])
        return to_float(images.reshape(len(images), -1))

    def _images(self, normalization: Normalization, split: Split, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the images of archive rows as the dataset has them, upright: [n, height, width, channels]."""
        pair = self.pair(split)
        stored = pair.read_images(rows).reshape(-1, *image_shape(pair.image_header))
        images: NDArray[Any] = np.ascontiguousarray(upright(stored, self.orientation))
        return images if self.pixels == "uint8" else normalize(images, normalization)


def changed_labels(pair: Pair) -> InputError:
    """Return the error for labels that are not those that decided the splits."""
    return InputError(
        f"{pair.label_archive}: found other labels while writing than while surveying, expected an archive that does "
        "not change; fix: run again"
    )


def to_batch(images: NDArray[Any], labels: NDArray[Any], rows: NDArray[Any]) -> pa.RecordBatch:
    """Return an Arrow batch of the dataset's columns from images [n, …], float32 or uint8, labels [n] and rows [n]."""
    return pa.RecordBatch.from_arrays(
        [to_column(images), pa.array(labels.astype(np.int32)), pa.array(rows.astype(np.int64))],
        names=["image", "label", "index"],
    )


def normalize(stored: NDArray[Any], rule: Normalization) -> NDArray[Any]:
    """Return float32 values in [0, 1], of the same shape."""
    if stored.dtype == np.uint8 and rule.rule == "type-range":
        return LEVELS[stored]
    scaled = (stored.astype(np.float64) - rule.offset) * rule.scale
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)
