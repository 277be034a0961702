"""python -m tests.benchmarks.contenders.reader_rows DATASET BATCH: rows/s of idxtrain's reader, into tensors.

Epochs of the train split, as a training on one rank reads them: shards through Petastorm, rows shuffled, batches
tensors. The first epoch from opening to the last batch; the second of what the first left in memory.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import petastorm  # noqa: F401  # its import is not what is measured
import tensorflow as tf

from jobs.dataset import read_manifest
from jobs.train.feed import ShardStore, read_epoch, spans
from jobs.train.order import RowOrder

_STEPS = 50  # of a call of the graph


def main(dataset: Path, batch: int) -> None:
    """Read two epochs, and print the rate of each."""
    tf.constant(0)  # starts TensorFlow
    begin = time.perf_counter()
    store = ShardStore(dataset, read_manifest(dataset), "train", threads=2, keep=True)
    order = RowOrder(store.shard_rows, batch, seed=0, shuffle_shards=4)
    rows = epoch(store, order, 0)
    middle = time.perf_counter()
    again = epoch(store, order, 1)
    end = time.perf_counter()
    rates = {"rows_per_second": rows / (middle - begin), "rows_per_second_held": again / (end - middle)}
    print(json.dumps({"rows": rows, **rates}))


def epoch(store: ShardStore, order: RowOrder, number: int) -> int:
    """Make each batch of an epoch a tensor; return the rows."""
    first, rows = number * order.steps, 0
    for call in read_epoch(store, order, number, spans(order, number, first, first + order.steps, _STEPS), 0, 1):
        images, labels = tf.constant(call.images), tf.constant(call.labels)
        for step in range(call.steps):
            batch = images[step], labels[step]
            rows += len(batch[1])
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
