"""Architectures, keyed dropout, augmentation, and the exported model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

import models
from models.training.augment import Augmentation
from models.training.dropout import Dropout, keyed
from models.training.export import portable
from models.training.keys import StepKey

PARAMETERS = {
    "softmax": 7_850,
    "lecture": 3_274_634,
    "compact": 215_194,
    "mnist_cnn": 1_199_882,
    "residual": 176_090,
    "vgg": 292_906,
    "whitened": 1_965_610,
}


@pytest.mark.parametrize("name", models.names())
def test_parameter_count_on_mnist(name: str) -> None:
    assert models.build(name, (28, 28, 1), 10).count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(("shape", "classes"), [((50, 50, 1), 16), ((12, 20, 1), 3), ((5, 5, 3), 2), ((1, 1, 1), 1)])
def test_a_model_takes_any_image_shape_and_number_of_classes(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    logits = models.build(name, shape, classes)(np.zeros((2, *shape), np.float32))
    assert logits.shape == (2, classes)
    assert logits.dtype == tf.float32


def test_standardizing_is_part_of_the_model() -> None:
    plain = models.build("softmax", (4, 4, 1), 3)
    standardized = models.build("softmax", (4, 4, 1), 3, standardize=(0.25, 0.5))
    weights = [np.random.default_rng(0).normal(size=w.shape) for w in plain.get_weights()]
    plain.set_weights(weights)
    standardized.set_weights(weights)
    images = np.random.default_rng(1).random((5, 4, 4, 1), np.float32)
    np.testing.assert_allclose(standardized(images), plain((images - 0.25) / 0.5), rtol=1e-5, atol=1e-5)


def step_key(first: int, of: int, step: int = 7, seed: int = 3) -> StepKey:
    """Return the key of rows from `first` on, in a global batch of `of` rows."""
    return StepKey(seed=seed, step=tf.constant(step), first_row=tf.constant(first), global_rows=tf.constant(of))


def masks(first: int, rows: int, of: int, step: int = 7, seed: int = 3) -> NDArray[Any]:
    layer = Dropout(0.4, name="dropout")
    with keyed(step_key(first, of, step, seed)):
        return np.asarray(layer(tf.ones((rows, 64)), training=True))


def test_dropout_masks_do_not_depend_on_how_a_batch_is_shared() -> None:
    whole = masks(0, 50, 50)
    shares = np.concatenate([masks(0, 16, 50), masks(16, 17, 50), masks(33, 17, 50)])
    np.testing.assert_array_equal(whole, shares)


def test_dropout_masks_depend_on_step_and_seed() -> None:
    assert (masks(0, 50, 50) != masks(0, 50, 50, step=8)).any()
    assert (masks(0, 50, 50) != masks(0, 50, 50, seed=4)).any()


def test_dropout_keeps_the_mean() -> None:
    kept = masks(0, 500, 500)
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.6)}
    assert abs(kept.mean() - 1) < 0.02  # 32,000 draws: five standard deviations


def test_dropout_is_the_identity_at_inference_and_needs_a_key_to_train() -> None:
    layer = Dropout(0.4)
    np.testing.assert_array_equal(layer(tf.ones((3, 4)), training=False), np.ones((3, 4)))
    with pytest.raises(RuntimeError, match="no key"):
        layer(tf.ones((3, 4)), training=True)


def test_the_exported_model_loads_without_this_projects_code(tmp_path: Path) -> None:
    model = models.build("lecture", (8, 8, 1), 4, standardize=(0.1, 0.3))
    images = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    portable(model).save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import keras, numpy, sys\n"
        "model = keras.models.load_model('model.keras')\n"
        "numpy.save('out.npy', model.predict(numpy.load('images.npy'), verbose=0))\n"
        "sys.exit(any(name.split('.')[0] in ('models', 'jobs') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = tf.nn.softmax(model(images, training=False))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "vgg", "whitened"])
def test_batch_normalization_is_exported_as_keras_own(name: str) -> None:
    model = models.build(name, (8, 8, 1), 4)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    images = random.random((6, 8, 8, 1), np.float32)
    exported = portable(model)
    assert not any(type(layer).__module__.startswith("models") for layer in exported.layers)
    expected = tf.nn.softmax(model(images, training=False))
    np.testing.assert_allclose(exported(images), expected, rtol=1e-4, atol=1e-6)


def test_the_first_layer_of_whitened_is_a_fixed_orthonormal_transform() -> None:
    model = models.build("whitened", (32, 32, 3), 10)
    kernel = model.get_layer("patches").get_weights()[0].reshape(12, 12)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(kernel[:, 0], 1 / np.sqrt(12), rtol=1e-6)  # the mean of the patch
    assert "patches" not in {variable.path.split("/")[0] for variable in model.trainable_variables}


def bend(images: NDArray[Any], first: int, of: int, displacement: float) -> NDArray[Any]:
    key = step_key(first, of)
    return np.asarray(Augmentation(elastic=displacement, elastic_sigma=3.0)(images, key))


def test_bent_images_do_not_depend_on_how_a_batch_is_shared() -> None:
    images = np.random.default_rng(0).random((9, 12, 20, 2), np.float32)
    shares = np.concatenate([bend(images[:4], 0, 9, 1.0), bend(images[4:], 4, 9, 1.0)])
    np.testing.assert_allclose(shares, bend(images, 0, 9, 1.0), atol=1e-5)


def test_a_displacement_of_zero_changes_no_pixel() -> None:
    images = np.random.default_rng(0).random((3, 12, 20, 2), np.float32)
    np.testing.assert_allclose(bend(images, 0, 3, 1e-9), images, atol=1e-6)


def test_images_are_transformed_alike_with_and_without_bending() -> None:
    """Without it, by TensorFlow's kernel; with it, in one pass with the displacements, which are tiny here."""
    images = np.random.default_rng(0).random((50, 12, 20, 2), np.float32)
    key = step_key(0, 50)
    bent, moved = (
        np.asarray(Augmentation(shift=2, rotate=20, zoom=0.2, elastic=elastic, sharp_fraction=0.3)(images, key))
        for elastic in (1e-9, 0.0)
    )
    np.testing.assert_allclose(bent, moved, atol=1e-4)
    assert np.abs(bent - images).mean() > 0.1


@pytest.mark.parametrize("sharp", [0.0, 0.5])
def test_the_configured_share_of_images_stays_sharp(sharp: float) -> None:
    """A sharp image equals a shift of the original by whole pixels."""
    images = np.random.default_rng(0).random((200, 12, 10, 1), np.float32)
    key = step_key(0, len(images))
    moved = np.asarray(Augmentation(shift=2, rotate=10, zoom=0.1, elastic=0.5, sharp_fraction=sharp)(images, key))
    framed = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    shifted = [framed[:, down : down + 12, right : right + 10] for down in range(5) for right in range(5)]
    same = np.any([np.isclose(moved, each, atol=1e-6).all((1, 2, 3)) for each in shifted], axis=0)
    assert abs(same.mean() - sharp) < (0.12 if sharp else 0.001)


def test_pixels_move_by_the_configured_root_mean_square() -> None:
    """Pixel values are their own rows and columns, so a value shows the position it was read from."""
    rows, columns = np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij")
    images = np.repeat(np.stack([rows, columns], axis=-1)[None], 64, axis=0).astype(np.float32)
    moved = (bend(images, 0, 64, 1.5) - images)[:, 12:28, 12:28]  # far from the border, where the field fades
    assert abs(np.sqrt(np.mean(moved**2)) - 1.5) < 0.15
    neighbors = np.abs(np.diff(moved, axis=1)).mean()
    assert neighbors < 0.5 * np.abs(moved).mean()  # they move alike
