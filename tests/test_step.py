"""The training step: what it computes, and that sharing a batch out over ranks changes nothing."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

import models
from jobs.train.compute.collective import Collective
from jobs.train.compute.compression import narrowed, widened
from jobs.train.compute.exact import LIMIT, SCALE, from_grid, to_grid
from jobs.train.compute.step import HowTaken, TrainStep, as_tensor, make_evaluator
from jobs.train.data.feed import Call
from jobs.train.data.row_cache import aligned_empty
from models.training import norm
from models.training.augment import Augmentation
from models.training.clip import clipped
from models.training.ema import EMA
from models.training.loss import cross_entropy
from models.training.loss_scale import LossScale
from models.training.norm import BatchNormalization
from models.training.optimizers import SGD, Hyperparameters

ROWS = 12
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((1, ROWS, 36), np.float32)
LABELS = RANDOM.integers(0, 4, (1, ROWS)).astype(np.int32)
RATE = np.array([0.5], np.float32)


class OneRank(Collective):
    """A collective of one, without Horovod."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 1


class TwoAlike(Collective):
    """A collective of two that compute the same, without Horovod."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 2

    def sum(self, tensor: Any, name: str) -> Any:
        return tensor + tensor


def share(first: int, last: int, weight: float = 1.0) -> Call:
    """One rank's call of one step: rows [first, last) of the global batch."""
    rows = slice(first, last)
    weights = np.full((1, last - first), weight, np.float32)
    return Call(0, IMAGES[:, rows], LABELS[:, rows], weights, np.arange(first, last), first, ROWS)


def make(dropout: float | None = None) -> tuple[Any, TrainStep]:
    tf.keras.utils.set_random_seed(1)
    model = models.build("lecture", (6, 6, 1), 4, dropout)
    return model, TrainStep(
        model, SGD([v.value for v in model.trainable_variables], Hyperparameters()), OneRank(), Augmentation(), 5
    )


def update(call: Call) -> tuple[list[NDArray[Any]], float]:
    """What one step changes in each weight, and its loss."""
    model, step = make()
    before = model.get_weights()
    losses = step(call, RATE).loss_sums / ROWS
    return [new - old for new, old in zip(model.get_weights(), before, strict=True)], float(losses[0])


def test_the_shares_of_a_batch_sum_to_its_update_dropout_and_all() -> None:
    whole, loss = update(share(0, ROWS))
    parts = [update(share(*bounds)) for bounds in ((0, 5), (5, 6), (6, ROWS))]
    for n, expected in enumerate(whole):
        np.testing.assert_allclose(sum(changes[n] for changes, _ in parts), expected, rtol=1e-4, atol=1e-5)
    assert abs(sum(part for _, part in parts) - loss) < 1e-4 * loss


def test_a_stand_in_row_of_weight_zero_changes_nothing() -> None:
    changes, loss = update(share(ROWS - 1, ROWS, weight=0.0))
    assert loss == 0
    assert not any(change.any() for change in changes)


def test_losses_are_taken_before_each_update_and_fall() -> None:
    _, step = make(dropout=0)
    steps = 4
    same = Call(
        0, IMAGES.repeat(steps, 0), LABELS.repeat(steps, 0), np.ones((steps, ROWS), np.float32), np.arange(0), 0, ROWS
    )
    losses = step(same, np.array([0, 0.01, 0.01, 0.01], np.float32)).loss_sums
    assert losses.shape == (steps,)
    assert losses[0] == losses[1]
    assert losses[3] < losses[2] < losses[1]


def test_accuracy_is_measured_with_dropout_off_after_the_last_update() -> None:
    model, step = make()
    right = step(share(0, ROWS), RATE).right
    again, _ = make_evaluator(model)(IMAGES[0], LABELS[0])
    assert right == again


def test_steps_in_two_calls_are_those_of_one_and_measured_only_where_asked() -> None:
    def steps(first: int, last: int, measured: bool) -> Call:
        rows = slice(first * 3, last * 3)
        shape = last - first, 3
        return Call(
            first, IMAGES[0, rows].reshape(*shape, 36), LABELS[0, rows].reshape(shape), np.ones(shape, np.float32),
            np.arange(12)[rows], 0, 3, measured,
        )  # fmt: skip

    rates = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    whole, train = make()
    once = train(steps(0, 4, True), rates)
    parted, train = make()
    first, second = train(steps(0, 3, False), rates[:3]), train(steps(3, 4, True), rates[3:])
    np.testing.assert_array_equal(np.concatenate([first.loss_sums, second.loss_sums]), once.loss_sums)
    assert (first.right, second.right) == (0, once.right)
    for one, other in zip(whole.get_weights(), parted.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_aligned_array_becomes_a_tensor_on_the_same_memory_and_lives_as_long() -> None:
    array = aligned_empty((2, ROWS, 36), np.float32)
    array[:] = RANDOM.random(array.shape, np.float32)
    tensor, content = as_tensor(array), array.copy()
    np.testing.assert_array_equal(tensor, content)
    alive = weakref.ref(array)
    array[0, 0, 0] = 7
    assert tensor[0, 0, 0] == 7
    del array
    assert alive() is not None
    del tensor
    gc.collect()
    assert alive() is None


def test_any_other_array_is_copied() -> None:
    """Among them every second row, and one that begins where TensorFlow's kernels would end the process."""
    memory = aligned_empty((ROWS * 36 + 1,), np.float32)
    memory[:] = RANDOM.random(memory.shape, np.float32)
    readonly = aligned_empty((ROWS, 36), np.float32)
    readonly[:] = 1
    readonly.flags.writeable = False
    for array in (memory[1:], memory[: ROWS * 36].reshape(ROWS, 36)[::2], readonly, memory[:0]):
        tensor = as_tensor(array)
        assert tensor.shape == array.shape
        np.testing.assert_array_equal(tf.exp(tensor), tf.exp(tf.constant(array)))
    tensor = as_tensor(memory[1:])
    before = memory[1]
    memory[1] = 7
    assert tensor[0] == before


def test_gradients_on_the_grid_sum_to_the_same_bits_in_any_order() -> None:
    parts = (RANDOM.standard_normal((12, 5000)) * 10.0 ** RANDOM.uniform(-9, 1, (12, 5000))).astype(np.float32)
    sums = set()
    for _ in range(20):
        total = tf.zeros(5000, tf.float64)
        for part in RANDOM.permutation(parts):
            total += to_grid(part * np.float32(SCALE))
        sums.add(from_grid(total).numpy().tobytes())
    assert len(sums) == 1
    np.testing.assert_allclose(np.frombuffer(sums.pop(), np.float32), parts.sum(0, np.float64), rtol=1e-6, atol=1e-12)
    plain = {RANDOM.permutation(parts).sum(0, np.float32).tobytes() for _ in range(20)}
    assert len(plain) > 1  # float32 sums do depend on the order


def test_a_step_in_slices_tells_what_no_sum_of_its_gradients_exceeds() -> None:
    def reach_and_largest(scale: float, slices: int | None) -> tuple[float, float]:
        model, _ = make(dropout=0)
        before = model.get_weights()
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        step = TrainStep(model, optimizer, OneRank(), Augmentation(), 5, HowTaken(slices=slices))
        call = share(0, ROWS)
        found = step(replace(call, images=call.images * np.float32(scale)), np.array([1.0], np.float32))
        moved = [np.abs(new - old).max() for new, old in zip(model.get_weights(), before, strict=True)]
        return float(found.reaches[0]), float(max(moved))

    for scale in (1.0, 1e4):
        reach, largest = reach_and_largest(scale, 4)
        assert largest * 0.999 <= reach < 20 * largest
    assert reach > LIMIT
    assert reach_and_largest(1.0, None)[0] == 0


def test_what_is_not_finite_stays_so_on_the_grid() -> None:
    assert np.isnan(from_grid(to_grid(np.array([np.nan], np.float32)) + to_grid(np.ones(1, np.float32))).numpy()).all()


@pytest.mark.parametrize("model_name", ["lecture", "compact"])
@pytest.mark.parametrize("how", [HowTaken(slices=5), HowTaken(microbatches=3), HowTaken(microbatches=20)])
def test_in_parts_a_step_does_the_same_as_at_once(how: HowTaken, model_name: str) -> None:
    def weights(how: HowTaken) -> list[NDArray[Any]]:
        tf.keras.utils.set_random_seed(1)
        model = models.build(model_name, (6, 6, 1), 4)
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        TrainStep(model, optimizer, OneRank(), Augmentation(shift=1), 5, how)(share(0, ROWS), RATE)
        return model.get_weights()

    for in_parts, at_once in zip(weights(how), weights(HowTaken()), strict=True):
        np.testing.assert_allclose(in_parts, at_once, rtol=1e-4, atol=1e-5)


def test_a_clipped_step_is_as_long_as_asked() -> None:
    def moved(how: HowTaken) -> NDArray[Any]:
        tf.keras.utils.set_random_seed(1)
        model = models.build("lecture", (6, 6, 1), 4)
        before = model.get_weights()
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        TrainStep(model, optimizer, OneRank(), Augmentation(), 5, how)(share(0, ROWS), RATE)
        return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), before, strict=True)])

    free, clipped = moved(HowTaken()), moved(HowTaken(clip_norm=0.01))
    assert np.linalg.norm(free) > 2 * RATE[0] * 0.01
    np.testing.assert_allclose(np.linalg.norm(clipped), RATE[0] * 0.01, rtol=1e-2)  # differences of float32 weights
    cosine = free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped)
    assert cosine > 0.999
    np.testing.assert_array_equal(moved(HowTaken(clip_norm=1e6)), free)


@pytest.mark.parametrize("largest", [1.0, 1e12, 1e18, 1e25, 3e38])
def test_gradients_whose_squares_overflow_are_clipped_all_the_same(largest: float) -> None:
    """In place of being dropped: an infinite norm would make a scale of 0."""
    gradients = [np.array([0.6 * largest, 0.0], np.float32), np.array([-0.8 * largest], np.float32)]
    shortened = clipped([tf.constant(gradient) for gradient in gradients], 0.5)
    np.testing.assert_allclose(np.concatenate(shortened), [0.3, 0, -0.4], rtol=1e-5)


def test_ordinary_gradients_are_clipped_to_the_same_bits_as_by_the_plain_formula() -> None:
    gradients = [RANDOM.normal(size=1000).astype(np.float32) * np.float32(10.0**power) for power in (-3, 0, 4)]
    for longest in (0.1, 1e9):
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
        for gradient, short in zip(gradients, clipped(gradients, longest), strict=True):
            np.testing.assert_array_equal(short, gradient * (longest / tf.maximum(norm, longest)))


def test_a_gradient_that_is_not_finite_stays_so_clipped() -> None:
    for odd in (np.nan, np.inf):
        assert not np.isfinite(clipped([tf.constant([odd, 1.0])], 1.0)[0]).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_float16_trains_as_float32_but_leaves_out_a_step_that_overflows(parts: int) -> None:
    def trained(policy: str, factor: float | None) -> tuple[list[NDArray[Any]], LossScale | None]:
        tf.keras.utils.set_random_seed(1)
        tf.keras.config.set_dtype_policy(policy)
        try:
            model = models.build("lecture", (6, 6, 1), 4, 0.0)
        finally:
            tf.keras.config.set_dtype_policy("float32")
        before = model.get_weights()
        scale = None
        if factor:
            scale = LossScale()
            scale.factor.assign(factor)
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        how = HowTaken(microbatches=parts)
        step = TrainStep(model, optimizer, OneRank(), Augmentation(), 5, how, loss_scale=scale)
        step(share(0, ROWS), np.array([0.01], np.float32))
        return [new - old for new, old in zip(model.get_weights(), before, strict=True)], scale

    expected, _ = trained("float32", None)
    changes, scale = trained("mixed_float16", 2.0**10)
    assert scale is not None
    assert (scale.factor.numpy(), scale.streak.numpy()) == (2**10, 1)
    for change, wanted in zip(changes, expected, strict=True):
        # float16 keeps 11 bits. Seen: 0.005 by Eigen's convolutions, 0.025 by oneDNN's with an Intel's AVX512-FP16.
        assert np.linalg.norm(change - wanted) <= 0.04 * np.linalg.norm(wanted)

    changes, scale = trained("mixed_float16", 2.0**30)
    assert scale is not None
    assert (scale.factor.numpy(), scale.streak.numpy()) == (2**29, 0)
    assert not any(change.any() for change in changes)


def test_float16_in_the_arithmetic_and_on_the_wire_is_enlarged_once() -> None:
    """Twice, by 2^15 and by 2^8, these gradients would be out of range, and the first steps left out."""
    scale = LossScale()
    model = models.build("lecture", (6, 6, 1), 4, 0.0)
    before = model.get_weights()
    optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
    TrainStep(
        model, optimizer, TwoAlike(), Augmentation(), 5, HowTaken(compression="float16"), loss_scale=scale
    )(share(0, ROWS), np.array([1e-3], np.float32))  # fmt: skip
    assert scale.streak.numpy() == 1
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_the_loss_scale_doubles_after_two_thousand_good_steps() -> None:
    scale, weight = LossScale(), tf.Variable([8.0])
    scale.streak.assign(1999)
    scale.update([tf.constant([2.0**15])], lambda gradients: weight.assign_sub(gradients[0]))
    assert (scale.factor.numpy(), scale.streak.numpy(), weight.numpy()) == (2**16, 0, 7.0)


def test_a_gradient_in_float16_keeps_eleven_bits() -> None:
    gradients = RANDOM.normal(size=1000).astype(np.float32) * 10.0 ** RANDOM.uniform(-6, 1, 1000).astype(np.float32)
    sent = narrowed(gradients)
    assert sent.dtype == tf.float16
    np.testing.assert_allclose(widened(sent), gradients, rtol=2**-11, atol=2e-10)


def test_a_batch_shared_out_is_normalized_as_a_whole() -> None:
    """A rank that has all rows, and one that has some, with the sums of the others given: the same outputs."""
    layer = BatchNormalization(name="norm")
    images = RANDOM.normal(3, 2, (ROWS, 4, 4, 5)).astype(np.float32)
    with norm.over(norm.GlobalBatch(tf.ones(ROWS), lambda tensor, name: tensor)):
        whole = layer(images, training=True)
    np.testing.assert_allclose(np.mean(whole, axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(whole, axis=(0, 1, 2)), 1, atol=2e-3)
    np.testing.assert_allclose(layer.moving_mean, 0.01 * images.mean(axis=(0, 1, 2)), rtol=1e-4)
    own = keras.layers.BatchNormalization()
    np.testing.assert_allclose(whole, own(images, training=True), atol=1e-4)

    sums: list[NDArray[Any]] = []

    def note(tensor: Any, name: str) -> Any:
        sums.append(np.asarray(tensor))
        return tensor

    for rows in (slice(0, 5), slice(5, ROWS)):
        with norm.over(norm.GlobalBatch(tf.ones(len(images[rows])), note)):
            layer(images[rows], training=True)
    with norm.over(norm.GlobalBatch(tf.ones(5), lambda tensor, name: tensor + sums[1])):
        part = layer(images[:5], training=True)
    np.testing.assert_allclose(part, whole[:5], atol=1e-5)


def test_a_stand_in_row_is_not_normalized_over() -> None:
    layer = BatchNormalization(name="norm")
    images = RANDOM.normal(3, 2, (3, 4, 4, 5)).astype(np.float32)
    with norm.over(norm.GlobalBatch(tf.constant([1.0, 1.0, 0.0]), lambda tensor, name: tensor)):
        with_one = layer(images, training=True)
    with norm.over(norm.GlobalBatch(tf.ones(2), lambda tensor, name: tensor)):
        without = layer(images[:2], training=True)
    np.testing.assert_allclose(with_one[:2], without, atol=1e-5)


def test_the_average_follows_the_weights() -> None:
    weight, average = tf.Variable([0.0, 10.0]), tf.Variable([4.0, 10.0])
    expected = np.array([4.0, 10.0])
    kept = EMA([weight], [average], 0.15)
    for step, decay in enumerate((0.1, 0.15, 0.15)):  # 1/10, then less than 2/11 and 3/12
        weight.assign_add([1.0, -1.0])
        kept.update(tf.constant(step))
        expected = decay * expected + (1 - decay) * weight.numpy()
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-6)


def test_smoothed_labels_as_in_the_paper() -> None:
    logits = RANDOM.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    spread = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = keras.losses.categorical_crossentropy(spread, logits, from_logits=True)
    np.testing.assert_allclose(cross_entropy(labels, logits, 0.1), expected, rtol=1e-5)
