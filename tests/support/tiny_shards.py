"""A training split of many tiny shards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset import Manifest, Shard
from jobs.files import sha256_file
from jobs.prepare.decode import to_batch
from tests.support.prepared import bare_manifest

ROWS, SHARDS = 4, 40


def write_shards(directory: Path) -> Manifest:
    """Write SHARDS shards of ROWS rows; each pixel of a row is the row's archive index / 1000."""
    (directory / "train").mkdir()
    shards = []
    for number in range(SHARDS):
        rows = np.arange(number * ROWS, (number + 1) * ROWS)
        images = np.repeat(rows[:, None] / 1000, 6, axis=1).astype(np.float32)
        path = directory / f"train/part-{number:05d}.parquet"
        pq.write_table(pa.Table.from_batches([to_batch(images, rows % 3, rows)]), path)
        shards.append(
            Shard(path=f"train/{path.name}", rows=ROWS, first_index=int(rows[0]), bytes=path.stat().st_size,
                  sha256=sha256_file(path))
        )  # fmt: skip
    total = ROWS * SHARDS
    counts = tuple(int(n) for n in np.bincount(np.arange(total) % 3))
    return bare_manifest((2, 3, 1), 3, {"rows": total, "label_counts": counts, "shards": tuple(shards)})
