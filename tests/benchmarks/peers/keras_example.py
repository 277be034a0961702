"""python -m tests.benchmarks.peers.keras_example DATA_DIR SEED EPOCHS [IMAGES]: Keras's own MNIST example, `mnist_cnn`.

Convolutions 3×3×32 and 3×3×64, pooling, dropout 0.25, dense 128, dropout 0.5; `fit` on all 60,000 training images in
memory, batches of 128, Adadelta with its original rate of 1. Written from its description.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D

from tests.benchmarks.peers.arrays import load
from tests.benchmarks.peers.epoch_clock import EpochClock


def main(folder: Path, seed: int, epochs: int, count: int | None) -> None:
    """Fit, evaluate and print the figures. On few images, a few batches build the graph first.

    `epoch_seconds`: of the last epoch; `share`: how many such epochs make an epoch of all images.
    """
    keras.utils.set_random_seed(seed)
    images, labels = load(folder, "train")
    test_images, test_labels = load(folder, "t10k")
    share = len(images) / min(len(images), count or len(images))
    images, labels = images[:count], labels[:count]
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            Conv2D(32, 3, activation="relu"),
            Conv2D(64, 3, activation="relu"),
            MaxPooling2D(2),
            Dropout(0.25),
            Flatten(),
            Dense(128, activation="relu"),
            Dropout(0.5),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adadelta(1.0), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    if share > 1:
        model.fit(images[:256], labels[:256], batch_size=128, verbose=0)
    clock = EpochClock()
    model.fit(images, labels, batch_size=128, epochs=epochs, verbose=0, callbacks=[clock])
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(json.dumps({"accuracy": accuracy, "epoch_seconds": clock.seconds[-1], "share": share}))


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[2:]]
    main(Path(sys.argv[1]), given[0], given[1], given[2] if len(given) > 2 else None)
