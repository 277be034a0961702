"""python -m tests.benchmarks.contenders.reader_rows DATASET BATCH: rows/s of idxtrain's reader, into tensors.

Reads epochs of the train split as one rank does: shards through Petastorm, rows shuffled, each batch a tensor. The
first epoch is timed from opening to the last batch; later ones read the row cache.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import petastorm  # noqa: F401  # so that its import is not measured
import tensorflow as tf

from jobs.dataset import read_manifest
from jobs.train.compute.tensors import as_tensor
from jobs.train.data.calls import plan_calls, read_epochs
from jobs.train.data.order import RowOrder
from jobs.train.data.shard_cache import ShardStore

_STEPS = 50  # steps_per_execution
_LATER = 10  # epochs timed together: one takes less than 0.1 s


def main(dataset: Path, batch: int) -> None:
    """Read the epochs; print the rate of the first and of the later ones."""
    tf.constant(0)  # starts TensorFlow
    begin = time.perf_counter()
    store = ShardStore(dataset, read_manifest(dataset), "train", threads=2, keep=True)
    order = RowOrder(shard_rows=store.shard_rows, batch_size=batch, seed=0, shuffle_shards=4)
    rows = epoch(store, order, 0)
    middle = time.perf_counter()
    again = sum(epoch(store, order, number) for number in range(1, 1 + _LATER))
    end = time.perf_counter()
    rates = {"rows_per_second": rows / (middle - begin), "rows_per_second_held": again / (end - middle)}
    print(json.dumps({"rows": rows, **rates}))


def epoch(store: ShardStore, order: RowOrder, number: int) -> int:
    """Read each batch of an epoch as a tensor; return the number of rows."""
    first, rows = number * order.steps, 0
    calls = plan_calls(order, number, first, first + order.steps, _STEPS, _STEPS)
    for call in read_epochs(store, order, [(number, calls)], 0, 1):
        # In a training the graph splits them; `images[step]` in Python would take longer than everything else.
        batches = zip(tf.unstack(as_tensor(call.images)), tf.unstack(call.labels), strict=True)
        rows += sum(int(labels.shape[0]) for _, labels in batches)
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
