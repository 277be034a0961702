"""python -m tests.benchmarks.contenders.reader_rows DATASET BATCH: rows/s of idxtrain's reader, into tensors.

One epoch of the train split, as a training on one rank reads it: shards through Petastorm, rows shuffled, batches
tensors. From opening to the last batch.
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
    """Read, and print the rate."""
    tf.constant(0)  # starts TensorFlow
    begin = time.perf_counter()
    store = ShardStore(dataset, read_manifest(dataset), "train", threads=2, keep=True)
    order = RowOrder(store.shard_rows, batch, seed=0, shuffle_shards=4)
    rows = 0
    for call in read_epoch(store, order, 0, spans(order, 0, 0, order.steps, _STEPS), 0, 1):
        images, labels = tf.constant(call.images), tf.constant(call.labels)
        for step in range(call.steps):
            batch_images, batch_labels = images[step], labels[step]
            rows += int(batch_labels.shape[0])
            del batch_images
    print(json.dumps({"rows": rows, "rows_per_second": rows / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
