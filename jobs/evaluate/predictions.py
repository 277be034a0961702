"""predictions.parquet: what the model predicted for each test image, for notebooks and other tools.

Columns: `index` int64, as in the dataset: the row in the archive, for several pairs with the segment in its upper bits
(`jobs.segments`); `label` and `predicted` int64, labels as in the archives; `probability`
float32, of the predicted class; and `probabilities` list<float32>, one per class that the model knows, in the order of
`test.classes` of metrics.json. The last one is left out where it would take more than 16 MB. Where the pictures have
names, `picture`: see `jobs.pictures`. Rows are in the order of the test split.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.dataset import Manifest
from jobs.evaluate.predict import Predictions
from jobs.files import write_atomic
from jobs.places import Places

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_PROBABILITIES = 4_000_000  # of 4 bytes each


def write_predictions(path: Path, predictions: Predictions, manifest: Manifest, places: Places | None = None) -> None:
    """Write the predictions atomically, readable by their owner alone.

    `manifest`: of the model's dataset. `places`: of the rows of the test images.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, probabilities = np.array(manifest.labels, np.int64), predictions.probabilities
    columns = {
        "index": pa.array(predictions.indices, pa.int64()),
        "label": pa.array(labels[predictions.labels]),
        "predicted": pa.array(labels[probabilities.argmax(axis=1)]),
        "probability": pa.array(probabilities.max(axis=1)),
    }
    if places and places.pictures:
        columns["picture"] = pa.array([places.of("test", index).picture for index in predictions.indices.tolist()])
    if probabilities.size <= _MOST_PROBABILITIES:
        ends = np.arange(0, probabilities.size + 1, probabilities.shape[1], dtype=np.int32)
        columns["probabilities"] = pa.ListArray.from_arrays(ends, probabilities.reshape(-1))
    table = pa.table(columns)

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
            pq.write_table(table, file, compression="zstd")

    write_atomic(path, write)


def read_predictions(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Return these columns of a file of predictions, or all of them, as a pyarrow table.

    Without threads: pyarrow 14's own may still run when the process ends, which then aborts (5 times in 40 on a busy
    machine).
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)
