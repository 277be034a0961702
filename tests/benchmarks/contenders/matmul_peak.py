"""python -m tests.benchmarks.contenders.matmul_peak PRECISION SIZE…: the machine's best matrix product, in GFLOP/s.

Square matrices of each size, in TensorFlow, on all threads: the best of many products of 2 n³ operations.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from jobs.train.compute.devices import configure

_SECONDS = 2.0  # per size


def main(precision: str, sizes: list[int]) -> None:
    """Print the best rate over all sizes."""
    configure(tf, 0, 1)
    print(json.dumps({"gflops": max(best(precision, size) for size in sizes)}))


def best(precision: str, size: int) -> float:
    """Return the best GFLOP/s of products of [size, size] matrices."""
    a, b = (tf.cast(tf.random.normal([size, size]), precision) for _ in range(2))
    multiply = tf.function(lambda a, b: tf.reduce_max(tf.matmul(a, b)[:1, :1]))
    multiply(a, b)
    shortest, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        begin = time.perf_counter()
        multiply(a, b).numpy()
        shortest = min(shortest, time.perf_counter() - begin)
    return 2 * size**3 / shortest / 1e9


if __name__ == "__main__":
    main(sys.argv[1], [int(size) for size in sys.argv[2:]])
