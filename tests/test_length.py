"""The length of a training: a batch that fits the data, and a minimum number of updates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.config import TrainConfig
from jobs.train.data.length import SMALLEST_BATCH, batch_size, images_seen, row_order, total_steps, validation_steps
from pipelines import recipes
from pipelines.config import compose

limits = st.none() | st.integers(1, 5000)


@given(rows=st.integers(1, 10**7), batch=st.integers(1, 1000), least=limits)
def test_the_batch_is_halved_only_as_far_as_an_epoch_needs_it(rows: int, batch: int, least: int | None) -> None:
    size = batch_size(TrainConfig(epochs=1, batch_size=batch, min_steps_per_epoch=least), rows)
    assert size == batch or SMALLEST_BATCH <= size < batch
    if size < batch:
        assert least is not None
        assert any(size == batch >> n and -(-rows // (batch >> (n - 1))) < least for n in range(1, 10))
    if least is not None and -(-rows // size) < least:
        assert size < 2 * SMALLEST_BATCH


@given(rows=st.integers(1, 10**5), epochs=st.integers(1, 50), least=limits, most=limits)
def test_epochs_are_repeated_until_the_least_number_of_steps_and_no_longer(
    rows: int, epochs: int, least: int | None, most: int | None
) -> None:
    config = TrainConfig(epochs=epochs, min_steps=least, max_steps=most, min_steps_per_epoch=40)
    order = row_order(config, [rows], seed=0)
    steps = total_steps(config, order)
    assert steps <= (most or steps)
    if most is None:
        assert steps % order.steps == 0
        assert steps >= max(epochs * order.steps, least or 0)
        assert steps - order.steps < max(epochs * order.steps, least or 0)
    else:
        assert steps == min(most, total_steps(config.model_copy(update={"max_steps": None}), order))
    assert images_seen(order, steps) <= steps * order.batch_size


@pytest.mark.parametrize(("name", "rows", "steps"), [("cifar", 49_000, 3_840), ("fashion", 59_000, 2_772)])
def test_the_floor_of_a_recipe_changes_only_the_training_on_less_data(name: str, rows: int, steps: int) -> None:
    config = compose(name, {}).train
    assert total_steps(config, row_order(config, [rows], seed=0)) == steps
    assert total_steps(config, row_order(config, [500], seed=0)) == 1_000


def test_mnist_is_trained_as_before_and_published_settings_have_no_floors() -> None:
    config = compose("fast", {}).train
    order = row_order(config, [2500] * 22, seed=0)
    assert (order.batch_size, total_steps(config, order), config.peak_rate(order.batch_size)) == (256, 645, 0.01)
    for rows in (54_784, 48_000):  # a few rows less, and a fold of five: as many epochs as MNIST
        assert total_steps(config, row_order(config, [rows], seed=0)) == 3 * -(-rows // 256)
    for name in ("lecture", "softmax", "keras"):
        train = recipes.load(name).sections["train"]
        assert not {"min_steps", "min_steps_per_epoch"} & set(train)


def test_an_option_replaces_a_recipes_floor_unless_it_gives_the_floor_too() -> None:
    given_alone = compose("fast", {}, ["train.epochs=2", "train.batch_size=64"]).train
    assert (given_alone.min_steps, given_alone.min_steps_per_epoch) == (None, None)
    both = compose("fast", {}, ["train.epochs=2", "train.min_steps=900"]).train
    assert (both.epochs, both.min_steps) == (2, 900)
    assert both.min_steps_per_epoch is not None


def test_many_short_epochs_are_validated_a_few_at_a_time_and_others_each() -> None:
    def validations(rows: int, **settings: int) -> tuple[int, int]:
        """Return the epochs from one validation to the next, and the validations of the training."""
        config = TrainConfig.model_validate({"epochs": 3, "batch_size": 100, **settings})
        order = row_order(config, [rows], seed=0)
        every = validation_steps(config, order)
        assert every % order.steps == 0
        return every // order.steps, -(-total_steps(config, order) // every)

    assert validations(100, min_steps=645) == (32, 21)
    assert validations(1000, min_steps=645) == (3, 22)
    assert validations(1000, epochs=3) == (1, 3)
    assert validations(5000, epochs=500) == (1, 500)  # not short
    assert validations(1000, epochs=500, log_every=20) == (2, 250)
