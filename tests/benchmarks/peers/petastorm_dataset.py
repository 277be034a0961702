"""python -m tests.benchmarks.peers.petastorm_dataset DATASET BATCH: rows/s of Petastorm's documented way to TensorFlow.

`make_batch_reader`, `make_petastorm_dataset`, `unbatch`, `batch`: one epoch of the train split, its row
groups shuffled. From opening to the last batch.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from petastorm import make_batch_reader
from petastorm.tf_utils import make_petastorm_dataset


def main(dataset: Path, batch: int) -> None:
    """Read, and print the rate."""
    tf.constant(0)  # starts TensorFlow
    begin, rows = time.perf_counter(), 0
    with make_batch_reader((dataset / "train").resolve().as_uri(), num_epochs=1, workers_count=2) as reader:
        for each in make_petastorm_dataset(reader).unbatch().batch(batch):
            rows += int(each.label.shape[0])
        print(json.dumps({"rows": rows, "rows_per_second": rows / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
