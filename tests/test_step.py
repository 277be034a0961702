"""The training step: what it computes, and that it computes the same however a batch is shared among ranks."""

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
from jobs.train.compute.compression import from_float16, to_float16
from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.exact import LIMIT, SCALE, from_grid, to_grid
from jobs.train.compute.step import StepOptions, TrainStep
from jobs.train.compute.tensors import as_tensor
from jobs.train.data.calls import GraphCall
from jobs.train.data.row_cache import aligned_empty
from models.training import norm
from models.training.augment import Augmentation
from models.training.clip import clip_by_global_norm
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
    """A collective of one rank, without Horovod."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 1


class TwoEqualRanks(Collective):
    """A collective of two ranks that compute the same, without Horovod."""

    def __init__(self) -> None:
        self.rank, self.world_size, self._shares_memory = 0, 2, False

    def sum(self, tensor: Any, name: str) -> Any:
        return tensor + tensor


def share(first: int, last: int, weight: float = 1.0) -> GraphCall:
    """Return one rank's graph call of one step: rows [first, last) of the global batch."""
    rows = slice(first, last)
    weights = np.full((1, last - first), weight, np.float32)
    return GraphCall(
        first_step=0,
        images=IMAGES[:, rows],
        labels=LABELS[:, rows],
        weights=weights,
        indices=np.arange(first, last),
        first_row=first,
        global_rows=ROWS,
    )


def make(dropout: float | None = None, options: StepOptions | None = None) -> tuple[Any, TrainStep]:
    tf.keras.utils.set_random_seed(1)
    model = models.build("lecture", (6, 6, 1), 4, dropout)
    optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
    return model, TrainStep(model, optimizer, OneRank(), Augmentation(), 5, options or StepOptions())


def update(call: GraphCall) -> tuple[list[NDArray[Any]], float]:
    """Return how one step changes each weight, and its loss."""
    model, step = make()
    before = model.get_weights()
    losses = step(call, RATE).loss_sums / ROWS
    return [new - old for new, old in zip(model.get_weights(), before, strict=True)], float(losses[0])


def test_the_updates_of_shares_sum_to_that_of_the_batch_with_dropout() -> None:
    whole, loss = update(share(0, ROWS))
    shares = [update(share(*bounds)) for bounds in ((0, 5), (5, 6), (6, ROWS))]
    for n, expected in enumerate(whole):
        np.testing.assert_allclose(sum(changes[n] for changes, _ in shares), expected, rtol=1e-4, atol=1e-5)
    assert abs(sum(share_loss for _, share_loss in shares) - loss) < 1e-4 * loss


def test_a_stand_in_row_of_weight_zero_changes_nothing() -> None:
    changes, loss = update(share(ROWS - 1, ROWS, weight=0.0))
    assert loss == 0
    assert not any(change.any() for change in changes)


def test_losses_are_taken_before_each_update_and_fall() -> None:
    _, step = make(dropout=0)
    steps = 4
    call = GraphCall(
        first_step=0,
        images=IMAGES.repeat(steps, 0),
        labels=LABELS.repeat(steps, 0),
        weights=np.ones((steps, ROWS), np.float32),
        indices=np.arange(0),
        first_row=0,
        global_rows=ROWS,
    )
    losses = step(call, np.array([0, 0.01, 0.01, 0.01], np.float32)).loss_sums
    assert losses.shape == (steps,)
    assert losses[0] == losses[1]
    assert losses[3] < losses[2] < losses[1]


def test_accuracy_is_measured_with_dropout_off_after_the_last_update() -> None:
    model, step = make()
    correct = step(share(0, ROWS), RATE).correct
    predicted, _ = make_evaluator(model)(IMAGES[0], LABELS[0])
    assert correct == (predicted == LABELS[0]).sum()


def test_two_graph_calls_do_the_same_steps_as_one_and_measure_only_when_due() -> None:
    def steps(first: int, last: int, measured: bool) -> GraphCall:
        rows = slice(first * 3, last * 3)
        shape = last - first, 3
        return GraphCall(
            first_step=first,
            images=IMAGES[0, rows].reshape(*shape, 36),
            labels=LABELS[0, rows].reshape(shape),
            weights=np.ones(shape, np.float32),
            indices=np.arange(12)[rows],
            first_row=0,
            global_rows=3,
            measured=measured,
        )

    rates = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    whole, train = make()
    once = train(steps(0, 4, True), rates)
    divided, train = make()
    first, second = train(steps(0, 3, False), rates[:3]), train(steps(3, 4, True), rates[3:])
    np.testing.assert_array_equal(np.concatenate([first.loss_sums, second.loss_sums]), once.loss_sums)
    assert (first.correct, second.correct) == (0, once.correct)
    for one, other in zip(whole.get_weights(), divided.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_aligned_array_becomes_a_tensor_on_the_same_memory_and_lives_as_long_as_it() -> None:
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
    """E.g. every second row, or an array at an address on which TensorFlow's kernels would crash the process."""
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
    addends = (RANDOM.standard_normal((12, 5000)) * 10.0 ** RANDOM.uniform(-9, 1, (12, 5000))).astype(np.float32)
    sums = set()
    for _ in range(20):
        total = tf.zeros(5000, tf.float64)
        for addend in RANDOM.permutation(addends):
            total += to_grid(addend * np.float32(SCALE))
        sums.add(from_grid(total).numpy().tobytes())
    assert len(sums) == 1
    np.testing.assert_allclose(np.frombuffer(sums.pop(), np.float32), addends.sum(0, np.float64), rtol=1e-6, atol=1e-12)
    plain = {RANDOM.permutation(addends).sum(0, np.float32).tobytes() for _ in range(20)}
    assert len(plain) > 1  # float32 sums do depend on the order


def test_a_step_in_slices_bounds_every_sum_of_its_gradients() -> None:
    def bound_and_largest(scale: float, slices: int | None) -> tuple[float, float]:
        model, _ = make(dropout=0)
        before = model.get_weights()
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        step = TrainStep(model, optimizer, OneRank(), Augmentation(), 5, StepOptions(slices=slices))
        call = share(0, ROWS)
        result = step(replace(call, images=call.images * np.float32(scale)), np.array([1.0], np.float32))
        moved = [np.abs(new - old).max() for new, old in zip(model.get_weights(), before, strict=True)]
        return float(result.gradient_bounds[0]), float(max(moved))

    for scale in (1.0, 1e4):
        bound, largest = bound_and_largest(scale, 4)
        assert largest * 0.999 <= bound < 20 * largest
    assert bound > LIMIT
    assert bound_and_largest(1.0, None)[0] == 0


def test_nan_stays_nan_on_the_grid() -> None:
    assert np.isnan(from_grid(to_grid(np.array([np.nan], np.float32)) + to_grid(np.ones(1, np.float32))).numpy()).all()


@pytest.mark.parametrize("model_name", ["lecture", "compact"])
@pytest.mark.parametrize("options", [StepOptions(slices=5), StepOptions(microbatches=3), StepOptions(microbatches=20)])
def test_a_step_in_slices_or_microbatches_does_the_same_as_at_once(options: StepOptions, model_name: str) -> None:
    def weights(options: StepOptions) -> list[NDArray[Any]]:
        tf.keras.utils.set_random_seed(1)
        model = models.build(model_name, (6, 6, 1), 4)
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        TrainStep(model, optimizer, OneRank(), Augmentation(shift=1), 5, options)(share(0, ROWS), RATE)
        return model.get_weights()

    for divided, at_once in zip(weights(options), weights(StepOptions()), strict=True):
        np.testing.assert_allclose(divided, at_once, rtol=1e-4, atol=1e-5)


def test_a_clipped_step_has_the_configured_norm() -> None:
    def moved(options: StepOptions) -> NDArray[Any]:
        tf.keras.utils.set_random_seed(1)
        model = models.build("lecture", (6, 6, 1), 4)
        before = model.get_weights()
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        TrainStep(model, optimizer, OneRank(), Augmentation(), 5, options)(share(0, ROWS), RATE)
        return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), before, strict=True)])

    free, clipped = moved(StepOptions()), moved(StepOptions(clip_norm=0.01))
    assert np.linalg.norm(free) > 2 * RATE[0] * 0.01
    np.testing.assert_allclose(np.linalg.norm(clipped), RATE[0] * 0.01, rtol=1e-2)  # differences of float32 weights
    cosine = free @ clipped / np.linalg.norm(free) / np.linalg.norm(clipped)
    assert cosine > 0.999
    np.testing.assert_array_equal(moved(StepOptions(clip_norm=1e6)), free)


@pytest.mark.parametrize("largest", [1.0, 1e12, 1e18, 1e25, 3e38])
def test_gradients_whose_squares_overflow_are_clipped_too(largest: float) -> None:
    """An infinite norm would scale them to 0."""
    gradients = [np.array([0.6 * largest, 0.0], np.float32), np.array([-0.8 * largest], np.float32)]
    clipped = clip_by_global_norm([tf.constant(gradient) for gradient in gradients], 0.5)
    np.testing.assert_allclose(np.concatenate(clipped), [0.3, 0, -0.4], rtol=1e-5)


def test_ordinary_gradients_are_clipped_to_the_bits_of_the_plain_formula() -> None:
    gradients = [RANDOM.normal(size=1000).astype(np.float32) * np.float32(10.0**power) for power in (-3, 0, 4)]
    for max_norm in (0.1, 1e9):
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
        for gradient, clipped in zip(gradients, clip_by_global_norm(gradients, max_norm), strict=True):
            np.testing.assert_array_equal(clipped, gradient * (max_norm / tf.maximum(norm, max_norm)))


def test_a_gradient_that_is_not_finite_stays_so_when_clipped() -> None:
    for odd in (np.nan, np.inf):
        assert not np.isfinite(clip_by_global_norm([tf.constant([odd, 1.0])], 1.0)[0]).all()


@pytest.mark.parametrize("microbatches", [1, 3])
def test_float16_trains_like_float32_but_skips_a_step_that_overflows(microbatches: int) -> None:
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
        options = StepOptions(microbatches=microbatches)
        step = TrainStep(model, optimizer, OneRank(), Augmentation(), 5, options, loss_scale=scale)
        step(share(0, ROWS), np.array([0.01], np.float32))
        return [new - old for new, old in zip(model.get_weights(), before, strict=True)], scale

    expected, _ = trained("float32", None)
    changes, scale = trained("mixed_float16", 2.0**10)
    assert scale is not None
    assert (scale.factor.numpy(), scale.streak.numpy()) == (2**10, 1)
    for change, reference in zip(changes, expected, strict=True):
        # float16 keeps 11 bits. Measured: 0.005 with Eigen's convolutions, 0.025 with oneDNN's on Intel's AVX512-FP16.
        assert np.linalg.norm(change - reference) <= 0.04 * np.linalg.norm(reference)

    changes, scale = trained("mixed_float16", 2.0**30)
    assert scale is not None
    assert (scale.factor.numpy(), scale.streak.numpy()) == (2**29, 0)
    assert not any(change.any() for change in changes)


def test_float16_precision_with_float16_compression_is_scaled_once() -> None:
    """Scaled twice, by 2^15 and by 2^8, these gradients would be out of range, and the first steps skipped."""
    scale = LossScale()
    model = models.build("lecture", (6, 6, 1), 4, 0.0)
    before = model.get_weights()
    optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
    TrainStep(
        model, optimizer, TwoEqualRanks(), Augmentation(), 5, StepOptions(compression="float16"), loss_scale=scale
    )(share(0, ROWS), np.array([1e-3], np.float32))  # fmt: skip
    assert scale.streak.numpy() == 1
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_the_loss_scale_doubles_after_2000_finite_steps() -> None:
    scale, weight = LossScale(), tf.Variable([8.0])
    scale.streak.assign(1999)
    scale.update([tf.constant([2.0**15])], lambda gradients: weight.assign_sub(gradients[0]))
    assert (scale.factor.numpy(), scale.streak.numpy(), weight.numpy()) == (2**16, 0, 7.0)


def test_a_gradient_compressed_to_float16_keeps_11_bits() -> None:
    gradients = RANDOM.normal(size=1000).astype(np.float32) * 10.0 ** RANDOM.uniform(-6, 1, 1000).astype(np.float32)
    compressed = to_float16(gradients)
    assert compressed.dtype == tf.float16
    np.testing.assert_allclose(from_float16(compressed), gradients, rtol=2**-11, atol=2e-10)


def test_a_shared_batch_is_normalized_as_a_whole() -> None:
    """A rank with all rows computes the same as one with some rows that gets the other ranks' sums."""
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

    def remember(tensor: Any, name: str) -> Any:
        sums.append(np.asarray(tensor))
        return tensor

    for rows in (slice(0, 5), slice(5, ROWS)):
        with norm.over(norm.GlobalBatch(tf.ones(len(images[rows])), remember)):
            layer(images[rows], training=True)
    with norm.over(norm.GlobalBatch(tf.ones(5), lambda tensor, name: tensor + sums[1])):
        share = layer(images[:5], training=True)
    np.testing.assert_allclose(share, whole[:5], atol=1e-5)


def test_a_stand_in_row_does_not_count_in_batch_normalization() -> None:
    layer = BatchNormalization(name="norm")
    images = RANDOM.normal(3, 2, (3, 4, 4, 5)).astype(np.float32)
    with norm.over(norm.GlobalBatch(tf.constant([1.0, 1.0, 0.0]), lambda tensor, name: tensor)):
        with_one = layer(images, training=True)
    with norm.over(norm.GlobalBatch(tf.ones(2), lambda tensor, name: tensor)):
        without = layer(images[:2], training=True)
    np.testing.assert_allclose(with_one[:2], without, atol=1e-5)


def test_the_ema_follows_the_weights() -> None:
    weight, shadow = tf.Variable([0.0, 10.0]), tf.Variable([4.0, 10.0])
    expected = np.array([4.0, 10.0])
    ema = EMA([weight], [shadow], 0.15)
    for step, decay in enumerate((0.1, 0.15, 0.15)):  # 1/10, then less than 2/11 and 3/12
        weight.assign_add([1.0, -1.0])
        ema.update(tf.constant(step))
        expected = decay * expected + (1 - decay) * weight.numpy()
    np.testing.assert_allclose(shadow.numpy(), expected, rtol=1e-6)


def test_label_smoothing_equals_cross_entropy_of_smoothed_labels() -> None:
    logits = RANDOM.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    spread = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = keras.losses.categorical_crossentropy(spread, logits, from_logits=True)
    np.testing.assert_allclose(cross_entropy(labels, logits, 0.1), expected, rtol=1e-5)
