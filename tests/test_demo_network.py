"""The demo's numbers: every layer is Keras's own, and a unit's explanation leads to it, for every recipe's network."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import models
from jobs.demo.attention import attention
from jobs.demo.network import Network
from jobs.demo.patches import patch_of
from jobs.demo.units import explain, explains
from jobs.errors import InputError
from pipelines import recipes
from tests.support.demo_models import untrained

TOLERANCE = 1e-5  # of the largest number of a layer
SHAPES = {"residual": (28, 28, 1), "vgg": (28, 28, 1), "whitened": (32, 32, 3), "compact": (21, 15, 1)}
UNITS = 6  # of each layer, at random, and the corners


def units(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    random = np.random.default_rng(1)
    corners = [tuple(0 for _ in shape), tuple(size - 1 for size in shape)]
    return corners + [tuple(int(random.integers(size)) for size in shape) for _ in range(UNITS)]


def check(explanation: dict[str, Any], expected: float, scale: float) -> None:
    """Check that parts add up to the sum, that it leads to the value, and that this is Keras's."""
    parts = [part["value"] for part in explanation["parts"]]
    scale = max(scale, *map(abs, parts), 1e-6)
    if explanation["sum"] is not None:
        assert sum(parts) == pytest.approx(explanation["sum"], abs=TOLERANCE * scale)
    else:
        assert parts == []
    if "weights" in explanation:
        products = np.dot(explanation["values"], explanation["weights"])
        assert products == pytest.approx(parts[0], abs=TOLERANCE * scale)
    assert explanation["output"] == pytest.approx(expected, abs=TOLERANCE * scale)
    assert explanation["value"] == pytest.approx(expected, abs=TOLERANCE * scale)


@pytest.mark.long
@pytest.mark.parametrize("architecture", models.names())
def test_every_layer_is_kerass_and_every_kind_of_unit_is_the_sum_of_its_parts(architecture: str) -> None:
    import keras

    shape = SHAPES.get(architecture, (28, 28, 1))
    model = untrained(architecture, shape, 11)
    network = Network(model)
    image = np.random.default_rng(2).random(shape, np.float32)
    outputs = network.outputs(image)
    assert list(outputs) == [layer.name for layer in model.layers]
    expected = keras.Model(model.input, [layer.output for layer in model.layers])(image[None], training=False)
    for layer, tensor in zip(network.layers.values(), expected, strict=True):
        values = np.asarray(tensor)[0]
        scale = max(float(np.abs(values).max()), 1e-6)
        np.testing.assert_allclose(outputs[layer.name], values, atol=TOLERANCE * scale, rtol=0)
        assert explains(layer) or layer.kind == "InputLayer"
        assert set(layer.inputs) <= set(list(outputs)[: list(outputs).index(layer.name)])  # in topological order
        for at in units(layer.shape) if layer.inputs else []:
            check(explain(network, layer.name, at, image), float(values[at]), scale)


def test_the_architectures_of_all_recipes_are_checked_here() -> None:
    assert {recipes.load(name).sections["train"]["model"] for name in recipes.names()} <= set(models.names())


@pytest.fixture(scope="module")
def small() -> Network:
    """A network of every kind of layer that the project's networks lack."""
    from keras import Input, Model
    from keras.layers import AveragePooling2D, Conv2D, Dense, DepthwiseConv2D, Flatten, ReLU

    images = Input((9, 7, 2), name="image")
    x = Conv2D(4, (3, 2), strides=2, padding="same", activation="tanh", bias_initializer="ones", name="strided")(images)
    x = DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu", name="depthwise")(x)
    x = AveragePooling2D(2, padding="same", name="mean")(x)
    x = ReLU(max_value=0.2, negative_slope=0.1, name="leaky")(x)
    x = Dense(5, activation="softmax", name="answer")(Flatten()(x))
    return Network(Model(images, x))


def test_strides_rectangular_kernels_depthwise_means_and_dense_softmax_are_explained(small: Network) -> None:
    image = np.random.default_rng(3).random((9, 7, 2), np.float32)
    outputs = small.outputs(image)
    for layer in small.layers.values():
        for at in units(layer.shape) if layer.inputs else []:
            value = outputs[layer.name][at]
            explanation = explain(small, layer.name, at, image)
            if layer.name == "answer":
                assert explanation["value"] == pytest.approx(value, abs=TOLERANCE)
            else:
                check(explanation, float(value), float(np.abs(outputs[layer.name]).max()))


@pytest.mark.parametrize(
    ("layer", "at", "message"),
    [
        ("conv9", (0,), "layer: found 'conv9', expected one of image, strided"),
        ("strided", (0, 0, 4), "at: found 0,0,4, expected 0–4,0–3,0–3 in strided"),
        ("strided", (0,), "at: found 0, expected"),
        ("image", (0, 0, 0), "layer: found image of kind InputLayer, expected one with inputs"),
    ],
)
def test_a_unit_that_is_not_there_is_refused(small: Network, layer: str, at: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(small, layer, at, np.zeros((9, 7, 2), np.float32))


def test_a_patch_begins_outside_where_tensorflow_pads() -> None:
    source: NDArray[Any] = np.arange(1.0, 37).reshape(6, 6, 1)
    patch = patch_of(source, (0, 2, 0), (3, 3), (2, 2), "same")  # pads one row and column, after the last ones
    assert (patch.row, patch.column, patch.outside) == (0, 4, (2, 5, 8))
    assert patch.values[..., 0].tolist() == [[5, 6, 0], [11, 12, 0], [17, 18, 0]]


def test_attention_is_where_the_ink_of_the_class_is() -> None:
    from keras import Input, Model
    from keras.layers import Dense, Flatten

    images = Input((12, 12, 1), name="image")
    model = Model(images, Dense(2, activation="softmax", name="answer")(Flatten()(images)))
    kernel = np.zeros((12, 12, 2), np.float32)
    kernel[2:5, 2:5, 1] = 1.0  # speaks for class 1
    kernel[8:11, 8:11, 0] = 0.5  # speaks for class 0
    model.get_layer("answer").set_weights([kernel.reshape(144, 2), np.zeros(2, np.float32)])
    image = np.zeros((12, 12, 1), np.float32)
    image[1:11, 1:11] = 1.0
    map_ = attention(Network(model), image, 1)
    assert map_.shape == (12, 12)
    assert map_.max() == 1.0
    assert divmod(int(map_.argmax()), 12) == (3, 3)
    assert -1 <= map_.min() < 0
    assert divmod(int(map_.argmin()), 12) == (9, 9)
    np.testing.assert_allclose(attention(Network(model), image, 0), -map_, atol=1e-5)
    assert not attention(Network(model), image * 0, 1).any()
