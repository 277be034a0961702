"""horovodrun -np N python -m tests.benchmarks.peers.horovod_tape DATA_DIR BATCH STEPS: Horovod's documented way.

`DistributedGradientTape` around Keras's layers and Adam. Every rank has all images in its own order, BATCH images per
step, and one thread. Horovod 0.28 hashes variables by `ref()`, which Keras 3 variables lack, so it gets the TensorFlow
variables inside them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from tests.benchmarks.peers.arrays import load
from tests.benchmarks.peers.keras_network import lecture_network

_WARM_UP = 5  # untimed steps


def main(folder: Path, batch: int, steps: int) -> None:
    """Train; on rank 0, print the rate of all ranks."""
    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images, labels = load(folder, "train")
    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().shuffle(10_000, seed=hvd.rank()).batch(batch)
    model = lecture_network()
    optimizer = keras.optimizers.Adam(1e-4 * hvd.size())
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = [variable.value for variable in model.trainable_variables]
    optimizer.build(model.trainable_variables)

    @tf.function
    def train(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = hvd.DistributedGradientTape(tape).gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    feed = iter(data.take(_WARM_UP + steps))
    for step in range(_WARM_UP):
        train(*next(feed))
        if step == 0:
            hvd.broadcast_variables(variables, root_rank=0)
    begin = time.perf_counter()
    for images, labels in feed:
        loss = train(images, labels)
    float(loss)
    seconds = time.perf_counter() - begin
    if hvd.rank() == 0:
        print(json.dumps({"images_per_second": hvd.size() * batch * steps / seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
