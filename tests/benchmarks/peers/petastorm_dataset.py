"""python -m tests.benchmarks.peers.petastorm_dataset DATASET BATCH: rows/s of Petastorm's documented way to TensorFlow.

`make_batch_reader`, `make_petastorm_dataset`, `unbatch`, `batch`: one epoch of the train split with shuffled row
groups, from opening to the last batch. Then the same with `cache`, which its documentation advises for several epochs:
those after the first, from memory. Of a dataset that stores bytes, each batch is decoded to uint8.
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

_LATER = 10  # epochs timed together: one takes 0.1 s


def main(dataset: Path, batch: int) -> None:
    """Read; print the rates."""
    tf.constant(0)  # starts TensorFlow
    begin = time.perf_counter()
    with make_batch_reader(url(dataset), num_epochs=1, workers_count=2) as reader:
        rows = count(make_petastorm_dataset(reader).unbatch().batch(batch))
        rate = rows / (time.perf_counter() - begin)
    with make_batch_reader(url(dataset), num_epochs=1, workers_count=2) as reader:
        kept = make_petastorm_dataset(reader).cache().unbatch().batch(batch)
        count(kept)
        begin = time.perf_counter()
        again = sum(count(kept) for _ in range(_LATER)) / (time.perf_counter() - begin)
    print(json.dumps({"rows": rows, "rows_per_second": rate, "rows_per_second_cached": again}))


def url(dataset: Path) -> str:
    return (dataset / "train").resolve().as_uri()


def count(batches: tf.data.Dataset) -> int:
    """Return the number of rows of all batches."""
    if batches.element_spec.image.dtype == tf.string:
        batches = batches.map(lambda each: (tf.io.decode_raw(each.image, tf.uint8), each.label))
        return sum(int(labels.shape[0]) for _, labels in batches)
    return sum(int(each.label.shape[0]) for each in batches)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
