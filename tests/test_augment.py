"""Flips, reflecting borders and cutout, whose random numbers depend on seed, step and row alone."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.training.augment import Augmentation
from models.training.grid_sample import reflected
from models.training.keys import StepKey

Images = NDArray[np.float32]
SETTINGS = {
    "flip": Augmentation(flip=True),
    "reflect": Augmentation(shift=3, border="reflect"),
    "cutout": Augmentation(cutout=5),
    "all": Augmentation(flip=True, shift=2, rotate=10, elastic=0.5, sharp_fraction=0.3, border="reflect", cutout=4),
}


def images(count: int) -> Images:
    return np.random.default_rng(0).random((count, 12, 10, 3), np.float32)


def augmented(augmentation: Augmentation, rows: Images, first: int = 0, of: int | None = None, step: int = 7) -> Images:
    """Return the rows changed as rows `first`, … of a global batch of `of` rows."""
    numbers = (tf.constant(number) for number in (step, first, of or len(rows)))
    key = StepKey(seed=3, **dict(zip(("step", "first_row", "global_rows"), numbers, strict=True)))
    return np.asarray(augmentation(rows, key))


@pytest.mark.parametrize("name", SETTINGS)
def test_changes_do_not_depend_on_how_a_batch_is_shared(name: str) -> None:
    rows = images(9)
    shares = [augmented(SETTINGS[name], rows[:4], 0, 9), augmented(SETTINGS[name], rows[4:], 4, 9)]
    np.testing.assert_allclose(np.concatenate(shares), augmented(SETTINGS[name], rows), atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_changes_differ_from_step_to_step(name: str) -> None:
    rows = images(9)
    assert (augmented(SETTINGS[name], rows) != augmented(SETTINGS[name], rows, step=8)).any()


def test_a_flip_mirrors_half_of_the_images_left_to_right() -> None:
    rows = images(400)
    changed = augmented(SETTINGS["flip"], rows)
    mirrored = (changed == rows[:, :, ::-1]).all((1, 2, 3))
    assert ((changed == rows).all((1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1  # four standard deviations


def test_a_reflecting_border_shows_the_image_mirrored_at_its_edge() -> None:
    rows = images(2000)  # a shift to a corner has a probability of 1 in 144
    framed = np.pad(rows, [(0, 0), (3, 3), (3, 3), (0, 0)], mode="symmetric")
    shifted = [framed[:, down : down + 12, right : right + 10] for down in range(7) for right in range(7)]
    same = np.array([(augmented(SETTINGS["reflect"], rows) == each).all((1, 2, 3)) for each in shifted])
    assert same.any(0).all()
    assert same.any(1).all()  # each of the 49 shifts occurs


def test_a_border_is_the_same_with_and_without_bending() -> None:
    """Without it, by TensorFlow's kernel; with it, by positions that are reflected first."""
    bent, moved = (
        augmented(Augmentation(shift=2, rotate=20, zoom=0.2, elastic=elastic, border="reflect"), images(50))
        for elastic in (1e-9, 0.0)
    )
    # The kernel clips a position that is up to half a pixel outside only after it has chosen its neighbors.
    assert np.quantile(np.abs(bent - moved), 0.99) < 1e-3


def test_a_position_outside_is_reflected_however_far_it_is() -> None:
    positions = reflected(tf.constant([-9.0, -1.0, -0.5, 0.0, 1.25, 3.0, 3.5, 4.0, 9.0, 100.0]), 4)
    np.testing.assert_allclose(positions, [0.0, 0.0, 0.0, 0.0, 1.25, 3.0, 3.0, 3.0, 1.0, 3.0])


def test_cutout_covers_a_square_of_the_images_mean_color_anywhere() -> None:
    rows = images(600)
    changed = augmented(SETTINGS["cutout"], rows)
    covered = (changed != rows).any(3)
    means = rows.mean((1, 2))
    for one, mask, mean in zip(changed, covered, means, strict=True):
        np.testing.assert_allclose(one[mask], np.broadcast_to(mean, one[mask].shape), rtol=1e-5)
        down, along = mask.any(1), mask.any(0)
        assert mask.sum() == down.sum() * along.sum()  # a rectangle
        assert 3 <= down.sum() <= 5  # up to half of the side lies outside
        assert 3 <= along.sum() <= 5
    # A pixel in the middle is covered if the center is one of 25 among 120.
    assert abs(covered[:, 6, 5].mean() - 25 / 120) < 0.07
    assert covered.any(0).all()


def test_a_square_larger_than_the_image_covers_it() -> None:
    rows = images(3)
    changed = augmented(Augmentation(cutout=40), rows)
    np.testing.assert_allclose(changed, np.broadcast_to(rows.mean((1, 2), keepdims=True), rows.shape), rtol=1e-5)


def test_without_settings_an_augmentation_is_false() -> None:
    assert not Augmentation(border="reflect")
    assert all(SETTINGS.values())
