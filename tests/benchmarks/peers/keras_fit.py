"""python -m tests.benchmarks.peers.keras_fit DATA_DIR BATCH IMAGES: the lecture's CNN with Keras `fit`, in images/s.

Arrays in memory, Adam 1e-4. One epoch of IMAGES images is timed, after two batches that build the graph.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from tests.benchmarks.peers.arrays import load
from tests.benchmarks.peers.epoch_clock import EpochClock
from tests.benchmarks.peers.keras_network import lecture_network


def main(folder: Path, batch: int, count: int) -> None:
    """Fit; print the rate."""
    images, labels = (array[:count] for array in load(folder, "train"))
    model = lecture_network()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    clock = EpochClock()
    model.fit(images[: 2 * batch], labels[: 2 * batch], batch_size=batch, verbose=0)
    model.fit(images, labels, batch_size=batch, verbose=0, callbacks=[clock])
    print(json.dumps({"images_per_second": len(images) / clock.seconds[-1]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
