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
}


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


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_slots_have_the_shape_of_their_weights(name: str) -> None:
    weights = [tf.Variable(array) for array in gradients(0)]
    for slots in OPTIMIZERS[name](weights, HYPERPARAMETERS).slots.values():
        assert [slot.shape for slot in slots] == [weight.shape for weight in weights]
