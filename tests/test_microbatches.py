"""Microbatches with batch normalization: the same rows of the global batch at any number of ranks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from jobs.train.compute.collective import Collective
from jobs.train.compute.step import StepOptions, TrainStep
from jobs.train.data.calls import GraphCall
from jobs.train.data.order import share
from models.training.augment import Augmentation
from models.training.dropout import Dropout
from models.training.norm import BatchNormalization
from models.training.optimizers import SGD, Hyperparameters
from tests.test_step import OneRank

# Rows of the global batches: one that two ranks share evenly, one unevenly, and one that leaves a rank without a row.
BATCHES = (12, 7, 1, 12)
SIZE, CLASSES = 6, 3


def model() -> keras.Model:
    """Return a network with layers that depend on more than their own row: two normalizations, and dropout."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNormalization(momentum=0.9, name="first")(x))
    x = BatchNormalization(momentum=0.9, name="second")(Dropout(0.3, name="dropout")(x))
    return keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))


def trained(collective: Collective, microbatches: int) -> NDArray[Any]:
    """Train as one rank; return the mean loss of each step, then the moving statistics: float64 [n]."""
    network = model()
    optimizer = SGD([v.value for v in network.trainable_variables], Hyperparameters())
    options = StepOptions(microbatches=microbatches)
    step = TrainStep(network, optimizer, collective, Augmentation(shift=1), 5, options)
    random = np.random.default_rng(0)
    losses = []
    for number, rows in enumerate(BATCHES):
        images = random.random((1, rows, SIZE * SIZE), np.float32) + np.arange(rows, dtype=np.float32)[:, None]
        labels = random.integers(0, CLASSES, (1, rows)).astype(np.int32)
        first, last = share(rows, collective.rank, collective.world_size)
        local, weight = slice(first, last), 1.0
        if first == last:
            first = min(first, rows - 1)
            local, weight = slice(first, first + 1), 0.0
        call = GraphCall(
            first_step=number,
            images=images[:, local],
            labels=labels[:, local],
            weights=np.full(labels[:, local].shape, weight, np.float32),
            indices=np.arange(0),
            first_row=first,
            global_rows=rows,
        )
        losses.append(step(call, np.array([0.05], np.float32)).loss_sums[0] / rows)
    total = np.asarray(collective.sum(tf.constant(losses, tf.float64), "losses"))
    return np.concatenate([total, *(np.ravel(v) for v in network.non_trainable_variables if "moving" in v.path)])


@pytest.mark.long
@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_are_normalized_the_same_at_any_number_of_ranks(tmp_path: Path, microbatches: int) -> None:
    # A rank that waited for one that has finished its own microbatches would wait forever: hence the timeout.
    command = [sys.executable, "-m", "tests.test_microbatches", str(tmp_path), str(microbatches)]
    subprocess.run(
        [sys.executable, "-m", "deploy.launcher", "--np", "2", *command], timeout=120, capture_output=True, check=True
    )
    ranks = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    np.testing.assert_array_equal(*ranks)
    np.testing.assert_allclose(ranks[0], trained(OneRank(), microbatches), rtol=1e-4, atol=1e-6)


def test_microbatches_have_other_statistics_than_the_whole_batch() -> None:
    """So the test above would notice rows in another microbatch."""
    whole, divided = trained(OneRank(), 1), trained(OneRank(), 4)
    assert abs(whole[0] - divided[0]) > 1e-3


if __name__ == "__main__":
    horovod = Collective()
    np.save(Path(sys.argv[1]) / f"{horovod.rank}.npy", trained(horovod, int(sys.argv[2])))
