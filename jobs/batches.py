"""Read a split in batches, so that any number of images fits into memory. See `jobs.dataset` for the files.

Rows are counted over the whole split, from 0, in the order of its shards. No TensorFlow here.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard, Split, check_shard_size, image_values
from jobs.errors import InputError
from jobs.shard_copies import local_path

_CHUNK_BYTES = 4 << 20  # of images that are decoded at once, or a batch if that is more: few rows cost as much as many


def read_labels(directory: Path, manifest: Manifest, split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labels, int32 [rows], and the indices, int64 [rows], of a split.

    Checks the size of every shard before any memory is allocated for the manifest's claims. Raises InputError.
    """
    import pyarrow.parquet as pq

    shards = manifest.splits[split].shards
    for shard in shards:
        check_shard_size(directory, manifest, shard, pq.read_metadata(local_path(directory, shard)))
    labels = np.empty(manifest.splits[split].rows, np.int32)
    indices = np.empty(len(labels), np.int64)
    start = 0
    for shard in shards:
        with pq.ParquetFile(local_path(directory, shard)) as file:
            table = file.read(["label", "index"], use_threads=False)
        stop = start + shard.rows
        labels[start:stop], indices[start:stop] = table["label"].to_numpy(), table["index"].to_numpy()
        start = stop
    return labels, indices


def shards_between(manifest: Manifest, split: Split, rows: range) -> list[tuple[int, Shard]]:
    """Return the shards that hold some of these rows, each with the number of its first row."""
    held, start = [], 0
    for shard in manifest.splits[split].shards:
        if start < rows.stop and rows.start < start + shard.rows:
            held.append((start, shard))
        start += shard.rows
    return held


def read_images(directory: Path, manifest: Manifest, split: Split, batches: Sequence[range]) -> Iterator[NDArray[Any]]:
    """Yield the images of each batch, float32 [rows, height, width, channels] in [0, 1].

    `batches`: ranges of rows, each beginning where the one before it ends. A batch may have rows of several shards. In
    memory are a batch, the rest of another, and one shard as it is stored.
    """
    if not batches:
        return
    rows = range(batches[0].start, batches[-1].stop)
    size = max(_chunk_rows(manifest), *map(len, batches))
    chunks = _chunks(directory, manifest, shards_between(manifest, split, rows), size)
    left, first = np.empty((0, manifest.values_per_image), np.float32), 0
    for batch in batches:
        parts = [left[max(0, batch.start - first) :]]
        while first + len(left) < batch.stop:
            first, left = next(chunks)
            parts.append(left[max(0, batch.start - first) :])
        images = np.concatenate(parts) if len(parts) > 1 else parts[0]
        yield images[: len(batch)].reshape(-1, *manifest.shape)


def read_rows(directory: Path, manifest: Manifest, split: Split, rows: Iterable[int]) -> NDArray[Any]:
    """Return the images of single rows, in the order given, as `read_images` does. Reads only their shards."""
    wanted = np.fromiter(rows, np.int64)
    images = np.empty((len(wanted), manifest.values_per_image), np.float32)
    held = [
        (start, shard)
        for start, shard in shards_between(manifest, split, range(manifest.splits[split].rows))
        if ((start <= wanted) & (wanted < start + shard.rows)).any()
    ]
    for first, chunk in _chunks(directory, manifest, held, _chunk_rows(manifest)):
        places = np.flatnonzero((first <= wanted) & (wanted < first + len(chunk)))
        images[places] = chunk[wanted[places] - first]
    return images.reshape(-1, *manifest.shape)


def _chunk_rows(manifest: Manifest) -> int:
    return max(1, _CHUNK_BYTES // (4 * manifest.values_per_image))


def _chunks(
    directory: Path, manifest: Manifest, shards: Iterable[tuple[int, Shard]], size: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the images of shards, float32 [at most `size`, values], each time with the number of the first row."""
    import pyarrow.parquet as pq

    for start, shard in shards:
        first = start
        with pq.ParquetFile(local_path(directory, shard)) as file:
            for batch in file.iter_batches(size, columns=["image"], use_threads=False):
                yield first, image_values(directory, manifest, shard, batch.column(0))
                first += len(batch)
        if first != start + shard.rows:
            raise InputError(
                f"{directory / shard.path}: found {first - start} rows, expected {shard.rows}; fix: remove {directory} "
                "and prepare it again"
            )
