"""Every recipe that comes with the project, for a few steps: its network, optimizer, augmentation and average learn."""

import numpy as np
import pytest

from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.network import Network
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall
from jobs.train.worker import make_step
from models.training.schedules import Rates
from pipelines import recipes
from pipelines.config import compose
from tests.support.prepared import bare_manifest
from tests.test_step import OneRank

ROWS, STEPS = 32, 6


def same_rows_again() -> GraphCall:
    """Steps on the same rows: of each class a bar at a height of its own, under noise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, ROWS).astype(np.int32)
    images = random.random((ROWS, 28, 28), np.float32) * 0.3
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6, 6:22] = 1.0
    rows = images.reshape(1, ROWS, -1).repeat(STEPS, 0)
    weights = np.ones((STEPS, ROWS), np.float32)
    return GraphCall(
        first_step=0,
        images=rows,
        labels=labels[None].repeat(STEPS, 0),
        weights=weights,
        indices=np.arange(ROWS),
        first_row=0,
        global_rows=ROWS,
    )


@pytest.mark.parametrize("name", recipes.names())
def test_it_learns(name: str) -> None:
    config: TrainConfig = compose(name, {}).train
    network = Network(config, bare_manifest((28, 28, 1), 10), seed=0, precision="float32")
    before = [weight.copy() for weight in network.final.get_weights()]
    step = make_step(config, network, OneRank(), seed=0)
    call = same_rows_again()
    losses = [
        loss
        for _ in range(5)
        for loss in step(call, Rates("constant", STEPS, config.peak_rate / 4, 0.0, 1.0)[:]).loss_sums / ROWS
    ]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-STEPS:]) < 0.8 * losses[0]
    assert any((old != new).any() for old, new in zip(before, network.final.get_weights(), strict=True))
    right, _ = make_evaluator(network.final)(call.images[0], call.labels[0])
    assert right >= ROWS // 4 or config.ema_decay  # chance: a tenth; an average follows slowly


def test_what_each_says_of_itself_is_what_it_does() -> None:
    for name in recipes.names():
        recipe, config = recipes.load(name), compose(name, {})
        train, held_out = config.train, config.prepare.validation_rows
        rows = 60_000 - (5_000 if held_out is None else held_out)
        steps = min(train.max_steps or 10**9, (train.epochs or 10**9) * -(-rows // train.batch_size))
        seen = min(steps * train.batch_size, (train.epochs or 10**9) * rows)
        assert recipe.about.images == seen, name
        assert recipe.about.command in (f"idxtrain run --recipe {name}", "idxtrain run"), name
        assert float(recipe.about.expected.split()[0]) > 0.9, name
