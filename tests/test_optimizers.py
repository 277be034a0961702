"""The fused optimizers compared with Keras's, which consist of plain operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.training.optimizers import OPTIMIZERS, Hyperparameters
from models.training.orthogonal import orthogonalized

RATE = 0.05
HYPERPARAMETERS = Hyperparameters(momentum=0.8, rho=0.85, beta1=0.7, beta2=0.95, epsilon=1e-6, weight_decay=0.1)
KERAS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(RATE),
    "momentum": lambda: keras.optimizers.SGD(RATE, momentum=0.8),
    "nesterov": lambda: keras.optimizers.SGD(RATE, momentum=0.8, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(RATE, rho=0.85, epsilon=1e-6),
    "adadelta": lambda: keras.optimizers.Adadelta(RATE, rho=0.85, epsilon=1e-6),
    "adam": lambda: keras.optimizers.Adam(RATE, beta_1=0.7, beta_2=0.95, epsilon=1e-6),
    "adamw": lambda: keras.optimizers.AdamW(RATE, weight_decay=0.1, beta_1=0.7, beta_2=0.95, epsilon=1e-6),
    # Keras applies the weight decay outside the trust ratio, the paper inside it: so no decay here, but below.
    "lamb": lambda: keras.optimizers.Lamb(RATE, beta_1=0.7, beta_2=0.95, epsilon=1e-6),
    # AdamW for the only matrix, as it is the output layer's. More matrices: below.
    "muon": lambda: keras_muon(exclude_layers=[""]),
}


def keras_muon(exclude_layers: list[str]) -> Any:
    """Return Keras's Muon, which has AdamW for the variables whose path contains one of the names."""
    return keras.optimizers.Muon(
        RATE,
        momentum=0.8,
        weight_decay=0.1,
        adam_beta_1=0.7,
        adam_beta_2=0.95,
        adam_weight_decay=0.1,
        epsilon=1e-6,
        exclude_layers=exclude_layers,
    )


def gradients(step: int) -> list[NDArray[Any]]:
    random = np.random.default_rng(step)
    return [random.normal(size=(4, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)]


def test_every_optimizer_is_compared_with_keras() -> None:
    assert set(KERAS) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_ten_updates_equal_those_of_keras(name: str) -> None:
    variables = [tf.Variable(array) for array in gradients(100)]
    reference_variables = [keras.Variable(array) for array in gradients(100)]
    optimizer = OPTIMIZERS[name](variables, replace(HYPERPARAMETERS, weight_decay=0.0 if name == "lamb" else 0.1))
    reference = KERAS[name]()
    for step in range(10):
        optimizer.apply([tf.constant(g) for g in gradients(step)], tf.constant(RATE), tf.constant(step))
        reference.apply([tf.constant(g) for g in gradients(step)], reference_variables)
    for variable, expected in zip(variables, reference_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), np.asarray(expected), rtol=2e-5, atol=2e-6)


def test_lamb_applies_weight_decay_as_in_its_paper() -> None:
    weights, gradient = (np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3), gradients(7)[0][:2])
    variable, zeros = tf.Variable(weights), tf.Variable(np.zeros(3, np.float32))
    lamb = OPTIMIZERS["lamb"]([variable, zeros], HYPERPARAMETERS)
    lamb.apply([tf.constant(gradient), tf.constant(np.ones(3, np.float32))], tf.constant(RATE), tf.constant(0))
    # After one update the corrected moments are the gradient and its square.
    direction = gradient / (np.abs(gradient) + 1e-6) + 0.1 * weights
    ratio = np.linalg.norm(weights) / np.linalg.norm(direction)
    np.testing.assert_allclose(variable.numpy(), weights - RATE * ratio * direction, rtol=1e-5)
    np.testing.assert_allclose(zeros.numpy(), -RATE * np.ones(3), rtol=1e-5)  # a norm of 0: the ratio is 1


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (2, 2, 3, 4)])
def test_muon_updates_hidden_kernels_as_keras_does_and_the_others_like_adamw(shape: tuple[int, ...]) -> None:
    """Keras leaves the kernels of convolutions to AdamW; here they are matrices of all inputs × filters."""
    shapes = [shape, shape[-1:], (3, 2)]  # a hidden kernel, a bias, the output layer's kernel
    random = np.random.default_rng(0)
    arrays = [[random.normal(size=size).astype(np.float32) for size in shapes] for _ in range(6)]
    variables = [tf.Variable(array) for array in arrays[0]]
    muon = OPTIMIZERS["muon"](variables, HYPERPARAMETERS)
    reference_variables = [
        keras.Variable(array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array, name=name)
        for array, name in zip(arrays[0], ("hidden", "bias", "logits"), strict=True)
    ]
    reference = keras_muon(exclude_layers=["logits"])
    for step, drawn in enumerate(arrays[1:]):
        muon.apply([tf.constant(g) for g in drawn], tf.constant(RATE), tf.constant(step))
        shaped = [g.reshape(each.shape) for g, each in zip(drawn, reference_variables, strict=True)]
        reference.apply([tf.constant(g) for g in shaped], reference_variables)
    for variable, expected in zip(variables, reference_variables, strict=True):
        flat = variable.numpy().reshape(expected.shape)
        np.testing.assert_allclose(flat, np.asarray(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 8), (8, 40), (9, 9)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_has_singular_values_near_1(
    shape: tuple[int, int],
) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 1e-3
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    values = left.T @ np.asarray(orthogonalized(tf.constant(matrix))) @ right.T
    assert np.abs(values - np.diag(np.diag(values))).max() < 1e-4
    assert 0.65 < np.diag(values).min() <= np.diag(values).max() < 1.25
    np.testing.assert_array_equal(orthogonalized(tf.zeros(shape)), np.zeros(shape))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_slots_have_the_shape_of_their_weights(name: str) -> None:
    weights = [tf.Variable(array) for array in gradients(0)]
    for slots in OPTIMIZERS[name](weights, HYPERPARAMETERS).slots.values():
        assert [slot.shape for slot in slots] == [weight.shape for weight in weights]
