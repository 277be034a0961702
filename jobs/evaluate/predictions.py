"""predictions.parquet: what the model predicted for each test image, for notebooks and other tools.

Columns: `index` int64, as in the dataset: the row in the archive, for several pairs with the segment in its upper bits
(`jobs.segments`); `label` and `predicted` int64, labels as in the archives; `probability`
float32, of the predicted class; and `probabilities` list<float32>, one per class that the model knows, in the order of
`test.classes` of metrics.json. The last one is left out where it would take more than 16 MB. Where the pictures have
names, `picture`: see `jobs.pictures`. Rows are in the order of the test split, 1,048,576 in a row group.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.evaluate.results import Predictions
from jobs.files import write_atomic
from jobs.places import Places

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_PROBABILITIES = 4_000_000  # of 4 bytes each
_GROUP_ROWS = 1 << 20  # of a row group, as pyarrow's own default: 30 MB in memory


def has_probabilities(rows: int, classes: int) -> bool:
    """Return whether the file has the column `probabilities`."""
    return rows * classes <= _MOST_PROBABILITIES


def write_predictions(
    path: Path,
    predictions: Predictions,
    manifest: Manifest,
    places: Places | None = None,
    probabilities: NDArray[Any] | None = None,
) -> None:
    """Write the predictions atomically, readable by their owner alone.

    `manifest`: of the model's dataset. `places`: of the rows of the test images. `probabilities`: float32 [rows,
    classes]; None to leave them out.
    """
    import pyarrow.parquet as pq

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
            groups = _groups(predictions, manifest, places, probabilities)
            first = next(groups)
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for group in groups:
                    writer.write_table(group)

    write_atomic(path, write)


def _groups(
    predictions: Predictions, manifest: Manifest, places: Places | None, probabilities: NDArray[Any] | None
) -> Iterator["pa.Table"]:
    """Yield the table, a row group at a time; at least one."""
    import pyarrow as pa

    labels = np.array(manifest.labels, np.int64)
    for start in range(0, max(len(predictions.labels), 1), _GROUP_ROWS):
        rows = slice(start, start + _GROUP_ROWS)
        columns = {
            "index": pa.array(predictions.indices[rows], pa.int64()),
            "label": pa.array(labels[predictions.labels[rows]]),
            "predicted": pa.array(labels[predictions.predicted[rows]]),
            "probability": pa.array(predictions.confidence[rows]),
        }
        if places and places.pictures:
            indices = predictions.indices[rows].tolist()
            columns["picture"] = pa.array([places.of("test", index).picture for index in indices])
        if probabilities is not None:
            block = probabilities[rows]
            ends = np.arange(0, block.size + 1, block.shape[1], dtype=np.int32)
            columns["probabilities"] = pa.ListArray.from_arrays(ends, block.reshape(-1))
        yield pa.table(columns)


def read_predictions(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Return these columns of a file of predictions, or all of them, as a pyarrow table.

    Without threads: pyarrow 14's own may still run when the process ends, which then aborts (5 times in 40 on a busy
    machine).
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)
