"""The disk space that a dataset needs while it is made, estimated from the archives' headers."""

import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path

from jobs.archive import Archive, is_gzip
from jobs.errors import InputError
from jobs.prepare.idx import Header
from jobs.prepare.plan import DatasetPlan

_ROW_BYTES = 40  # label, index, the levels of a list, and the row number in `row_files`
_SHARD_BYTES = 8 << 10  # footer, page headers, rounding up to the file system's blocks
_VIEW_BYTES = 260  # of a row: its sketch, and its digest in pieces and whole
_DICTIONARY_BYTES = 1 << 20  # the size at which Arrow drops a column's dictionary
_SLACK = 1.1


def require_room(
    directory: Path,
    archives: Mapping[str, Archive],
    headers: Mapping[str, Header],
    plan: DatasetPlan,
    *,
    keeps_shards: bool,
) -> None:
    """Raise InputError if the disk of `directory` has no room for what `room` returns."""
    needed = room(archives, headers, plan, keeps_shards=keeps_shards)
    require_free(directory, needed, f"the inflated archives and the dataset{'' if keeps_shards else ' without shards'}")


def require_free(directory: Path, needed: int, purpose: str) -> None:
    """Raise InputError if the disk of `directory` has fewer free bytes than are needed."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"{directory.parent}: found {free / 1e6:,.1f} MB free on the disk, expected {needed / 1e6:,.1f} MB for "
            f"{purpose}; fix: free some space, or give a --work on another disk"
        )


def room(
    archives: Mapping[str, Archive], headers: Mapping[str, Header], plan: DatasetPlan, *, keeps_shards: bool = True
) -> int:
    """Return the bytes of the inflated archives, the Parquet files, and the views: an upper estimate.

    `keeps_shards`: whether the Parquet files stay on this disk.
    """
    inflated = sum(headers[role].file_bytes for role, archive in archives.items() if is_gzip(archive.path))
    shards = parquet_bytes(plan, headers["train_images"]) if keeps_shards else 0
    return inflated + shards + view_bytes(sum(plan.rows.values()))


def view_bytes(rows: int) -> int:
    """Return the bytes of the views and digests of rows, which the findings need."""
    return _VIEW_BYTES * rows


def parquet_bytes(plan: DatasetPlan, images: Header) -> int:
    """Return an upper estimate of the size of the dataset's files, as if all images were noise.

    Parquet codes a column by a dictionary of its values, so a value takes its stored size, at most a float32.
    """
    stored = min(images.dtype.itemsize, 4)
    values = prod(images.row_shape)
    rows = sum(plan.rows.values())
    shards = sum(-(-count // plan.rows_per_shard) for count in plan.rows.values())
    dictionary = min(_DICTIONARY_BYTES, 4 * 256**stored, 4 * plan.rows_per_shard * values)
    return int(_SLACK * (rows * (values * stored + _ROW_BYTES) + shards * (_SHARD_BYTES + dictionary)))
