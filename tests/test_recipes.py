"""Every shipped recipe learns in a few steps; each choice of the config has its code."""

from collections.abc import Collection
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

import models
from deploy.slurm import commands
from deploy.slurm.site import JOB_STAGES, JobStage, Launcher, Site
from jobs.config import Section
from jobs.fetch.catalog import CATALOG
from jobs.fetch.config import FetchConfig
from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.network import Network
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall
from jobs.train.worker import make_step
from models.training import schedules
from models.training.optimizers import OPTIMIZERS
from models.training.schedules import Rates
from pipelines import recipes
from pipelines.config import compose
from tests.support.prepared import bare_manifest
from tests.test_step import OneRank

ROWS, STEPS = 32, 6
FLOATS = ("float32", "bfloat16", "float16")


def same_rows_again() -> GraphCall:
    """Return steps on the same rows: noise with a bar at a height that depends on the class."""
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
def test_a_recipe_learns_in_30_steps(name: str) -> None:
    config: TrainConfig = compose(name, {}).train
    network = Network(config, bare_manifest((28, 28, 1), 10), seed=0, precision="float32")
    before = [weight.copy() for weight in network.final.get_weights()]
    step = make_step(config, network, OneRank(), seed=0)
    call = same_rows_again()
    losses = [
        loss
        for _ in range(5)
        for loss in step(call, Rates("constant", STEPS, config.peak_rate(256) / 4, 0.0, 1.0)[:]).loss_sums / ROWS
    ]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-STEPS:]) < 0.8 * losses[0]
    assert any((old != new).any() for old, new in zip(before, network.final.get_weights(), strict=True))
    predicted, _ = make_evaluator(network.final)(call.images[0], call.labels[0])
    correct = int((predicted == call.labels[0]).sum())
    assert correct >= ROWS // 4 or config.ema_decay  # chance: a tenth; an EMA follows slowly


def test_a_recipe_states_its_command_and_the_images_it_trains_on() -> None:
    for name in recipes.names():
        recipe, config = recipes.load(name), compose(name, {})
        train, held_out = config.train, config.prepare.validation_rows
        archive = CATALOG[config.fetch.dataset].archives["train_images"].shape[0]
        rows = archive - (archive // 12 if held_out is None else held_out)
        steps = min(train.max_steps or 10**9, (train.epochs or 10**9) * -(-rows // train.batch_size))
        seen = min(steps * train.batch_size, (train.epochs or 10**9) * rows)
        assert recipe.about.images == seen, name
        commands = ("idxtrain run", f"idxtrain run --recipe {name}", f"idxtrain run --recipe {name} --data FOLDER")
        assert recipe.about.command in commands, name
        assert recipe.about.expected == "not measured yet" or float(recipe.about.expected.split()[0]) > 0.9, name


def choices(section: type[Section], key: str) -> tuple[str, ...]:
    """Return the values of a Literal key."""
    return get_args(section.model_fields[key].annotation)


# Each place in the code that has an entry per choice: by name, the choices and the entries.
REGISTRIES: dict[str, tuple[tuple[str, ...], Collection[str]]] = {
    "optimizer": (choices(TrainConfig, "optimizer"), OPTIMIZERS),
    "schedule": (choices(TrainConfig, "schedule"), vars(schedules)["_SHAPES"]),
    "precision": (choices(TrainConfig, "precision"), ("auto", *FLOATS)),
    "compression": (choices(TrainConfig, "compression"), FLOATS),
    "launcher": (choices(Site, "launcher"), vars(commands).get("LAUNCHERS", get_args(Launcher))),
    "job": (get_args(JobStage), JOB_STAGES),
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_each_choice_of_a_key_has_its_entry_in_the_code_and_none_is_left_over(name: str) -> None:
    allowed, entries = REGISTRIES[name]
    assert set(allowed) == set(entries)
    assert len(allowed) == len(entries)


@pytest.mark.parametrize("name", FLOATS)
def test_each_precision_and_compression_is_a_data_type(name: str) -> None:
    config = TrainConfig(epochs=1, precision=name, compression=name)  # type: ignore[arg-type]
    assert tf.as_dtype(config.precision).is_floating
    assert tf.as_dtype(config.compression).is_floating


def test_each_model_is_a_file_that_a_recipe_trains() -> None:
    assert {compose(name, {}).train.model for name in recipes.names()} == set(models.names())
    assert all(TrainConfig(epochs=1, model=name).model == name for name in models.names())


def test_each_data_set_of_the_catalog_is_named_where_it_is_chosen() -> None:
    for name in CATALOG:
        assert compose("fast", {"fetch.dataset": name}).fetch.dataset == name
        assert name in (FetchConfig.model_fields["dataset"].description or "")
