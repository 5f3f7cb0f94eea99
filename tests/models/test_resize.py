"""The crop for any rectangle."""

import numpy as np
import pytest

from transmix.data.augment import EvaluationCrop
from transmix.models.loaded import Cover

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(40, 40), (40, 60), (90, 30)])
def test_for_a_square_it_is_the_evaluation_crop(shape):
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(Cover((20, 20))(image), EvaluationCrop(20, 1.0)(image))
    assert np.array_equal(Cover((20, 20), 0.5)(image), EvaluationCrop(20, 0.5)(image))


@pytest.mark.parametrize("shape", [(40, 80), (17, 31), (400, 20), (20, 400)])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (8, 8)])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_images_of_any_shape_cover_any_rectangle(shape, size, crop):
    flat = np.full((*shape, 3), 200, dtype=np.uint8)
    cropped = Cover(size, crop)(flat)
    assert tuple(cropped.shape) == (3, *size)
    assert (cropped == 200).all()


def test_sides_are_not_swapped():
    image = np.zeros((16, 24, 3), dtype=np.uint8)
    image[:8] = 255  # the upper half is white
    cropped = Cover((16, 24))(image)
    assert (cropped[:, :8] == 255).all()
    assert (cropped[:, 8:] == 0).all()
