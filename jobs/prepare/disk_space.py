"""How much disk a dataset takes while it is made, from the archives' headers alone."""

import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path

from jobs.archive import Archive
from jobs.errors import InputError
from jobs.prepare.archives import is_gzip
from jobs.prepare.idx import Header
from jobs.prepare.plan import DatasetPlan

_ROW_BYTES = 32  # label, index and the levels of a list
_SHARD_BYTES = 8 << 10  # footer, page headers, whole blocks of the file system
_DICTIONARY_BYTES = 1 << 20  # at which Arrow gives up on a column's dictionary
_SLACK = 1.1


def require_room(
    directory: Path, archives: Mapping[str, Archive], headers: Mapping[str, Header], plan: DatasetPlan
) -> None:
    """Raise InputError where the disk of `directory` has no room for the inflated archives and the Parquet files."""
    inflated = sum(headers[role].file_bytes for role, archive in archives.items() if is_gzip(archive.path))
    needed = inflated + parquet_bytes(plan, headers["train_images"])
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"{directory.parent}: found {free / 1e6:,.1f} MB free on the disk, expected {needed / 1e6:,.1f} MB for the "
            "inflated archives and the dataset; make room, or give a --work on another disk"
        )


def parquet_bytes(plan: DatasetPlan, images: Header) -> int:
    """Return about the most that the dataset's files take: what zstd makes of noise.

    A value takes as much as it is stored with, as its column is coded by a dictionary of the values that occur, and at
    most a float32.
    """
    stored = min(images.dtype.itemsize, 4)
    values = prod(images.row_shape)
    rows = sum(plan.rows.values())
    shards = sum(-(-count // plan.rows_per_shard) for count in plan.rows.values())
    dictionary = min(_DICTIONARY_BYTES, 4 * 256**stored, 4 * plan.rows_per_shard * values)
    return int(_SLACK * (rows * (values * stored + _ROW_BYTES) + shards * (_SHARD_BYTES + dictionary)))
