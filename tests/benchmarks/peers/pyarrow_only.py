"""python -m tests.benchmarks.peers.pyarrow_only DATA_DIR OUT PROCESSES: IDX to Parquet with pyarrow alone.

Inflates the archives into memory, divides by 255, and writes the same columns and compression, 2,500 rows per file,
from PROCESSES processes that share the arrays. It does not check, count or look for duplicates.
"""

import gzip
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

_ROWS = 2500
_SCALED = (np.arange(256) / 255).astype(np.float32)

arrays: dict[str, NDArray[Any]] = {}


def read(folder: Path, name: str, header: int) -> NDArray[Any]:
    with gzip.open(next(folder.glob(f"{name}*"))) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def write(task: tuple[str, int, Path]) -> int:
    split, start, out = task
    images, labels = (arrays[f"{split}-{kind}"][start : start + _ROWS] for kind in ("images", "labels"))
    offsets = np.arange(len(labels) + 1, dtype=np.int32) * images.shape[1]
    columns = {
        "image": pa.ListArray.from_arrays(pa.array(offsets), pa.array(_SCALED[images].reshape(-1))),
        "label": pa.array(labels.astype(np.int32)),
        "index": pa.array(np.arange(start, start + len(labels))),
    }
    path = out / f"{split}-{start:07d}.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=1, row_group_size=_ROWS)
    return len(labels)


def main(folder: Path, out: Path, processes: int) -> None:
    out.mkdir()
    tasks = []
    for split in ("train", "t10k"):
        labels = arrays[f"{split}-labels"] = read(folder, f"{split}-labels", 8)
        arrays[f"{split}-images"] = read(folder, f"{split}-images", 16).reshape(len(labels), -1)
        tasks += [(split, start, out) for start in range(0, len(labels), _ROWS)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        print(json.dumps({"rows": sum(pool.map(write, tasks, chunksize=1))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
