"""python -m tests.benchmarks.peers.lecture_script DATA_DIR [STEPS [SEED]]: the lecture's CNN, the lecture's way.

Graph mode, a session, feed_dict; 20,000 steps of 50; Adam 1e-4; dropout 0.5; validation on a twelfth of the training
images; the training accuracy every 100 steps with dropout off; the test accuracy at the end. Written from the
description of "Deep Learning In An Afternoon", Pittsburgh Supercomputing Center 2018.
"""

import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf
from numpy.typing import NDArray

BATCH, TEST_BATCH, WARM_UP = 50, 1000, 10


def load(folder: Path, name: str, header: int) -> NDArray[Any]:
    with gzip.open(next(folder.glob(f"{name}*"))) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def batches(images: NDArray[Any], labels: NDArray[Any], seed: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield images[rows], labels[rows]


def weight(shape: list[int]) -> Any:
    return tf.Variable(tf.truncated_normal(shape, stddev=0.1))


def bias(size: int) -> Any:
    return tf.Variable(tf.constant(0.1, shape=[size]))


def pool(x: Any) -> Any:
    return tf.nn.max_pool2d(x, 2, 2, "SAME")


def main(folder: Path, steps: int, seed: int) -> None:
    train_images = load(folder, "train-images-idx3-ubyte", 16).reshape(-1, 784) / np.float32(255)
    train_labels = load(folder, "train-labels-idx1-ubyte", 8).astype(np.int64)
    test_images = load(folder, "t10k-images-idx3-ubyte", 16).reshape(-1, 784) / np.float32(255)
    test_labels = load(folder, "t10k-labels-idx1-ubyte", 8).astype(np.int64)
    held_out = len(train_labels) // 12

    tf.disable_eager_execution()
    tf.set_random_seed(seed)
    x = tf.placeholder(tf.float32, [None, 784])
    y = tf.placeholder(tf.int64, [None])
    keep = tf.placeholder(tf.float32)
    h = tf.reshape(x, [-1, 28, 28, 1])
    h = pool(tf.nn.relu(tf.nn.conv2d(h, weight([5, 5, 1, 32]), 1, "SAME") + bias(32)))
    h = pool(tf.nn.relu(tf.nn.conv2d(h, weight([5, 5, 32, 64]), 1, "SAME") + bias(64)))
    h = tf.nn.relu(tf.matmul(tf.reshape(h, [-1, 7 * 7 * 64]), weight([7 * 7 * 64, 1024])) + bias(1024))
    h = tf.nn.dropout(h, rate=1 - keep)
    logits = tf.matmul(h, weight([1024, 10])) + bias(10)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    update = tf.train.AdamOptimizer(1e-4).minimize(loss)
    correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.int32))

    feed = batches(train_images[held_out:], train_labels[held_out:], seed)
    # By default a session used one of two cores; the peer gets all.
    threads = len(os.sched_getaffinity(0))
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        begin = time.perf_counter()
        for step in range(steps):
            if step == min(WARM_UP, steps - 1):
                warm = time.perf_counter()
            images, labels = next(feed)
            if step % 100 == 0:
                accuracy = session.run(correct, {x: images, y: labels, keep: 1.0}) / BATCH
                print(f"step {step}, training accuracy {accuracy:.2f}", flush=True)
            session.run(update, {x: images, y: labels, keep: 0.5})
        end = time.perf_counter()
        total = sum(
            session.run(correct, {x: test_images[i : i + TEST_BATCH], y: test_labels[i : i + TEST_BATCH], keep: 1.0})
            for i in range(0, len(test_images), TEST_BATCH)
        )
    rate = (steps - min(WARM_UP, steps - 1)) * BATCH / (end - warm)
    figures = {"accuracy": total / len(test_images), "images_per_second": rate, "loop_seconds": end - begin}
    print(json.dumps({name: float(value) for name, value in figures.items()}))


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[2:]]
    main(Path(sys.argv[1]), given[0] if given else 20_000, given[1] if len(given) > 1 else 0)
