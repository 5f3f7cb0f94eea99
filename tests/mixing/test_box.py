"""Boxes: whole pixels inside the image, of the area that was asked for."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transmix.mixing.box import box_area, check_box, draw_box, draw_box_minmax

SIDES = st.integers(1, 60)
SEEDS = st.integers(0, 2**32 - 1)


def pixels_of(box, height, width):
    """The slow way: paint the box into an image and count."""
    image = np.zeros((height, width), dtype=bool)
    top, left, bottom, right = box
    for y in range(top, bottom):
        for x in range(left, right):
            image[y, x] = True
    return image


def assert_box_fits(draw, seed, height, width):
    top, left, bottom, right = draw(random.Random(seed), height, width)
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width


@given(SEEDS, SIDES, SIDES, st.floats(0, 1))
def test_a_drawn_box_lies_in_the_image(seed, height, width, lam):
    assert_box_fits(lambda rng, h, w: draw_box(rng, lam, h, w), seed, height, width)


@given(SEEDS, SIDES, SIDES, st.floats(0, 1))
def test_the_area_of_a_box_is_the_number_of_its_pixels(seed, height, width, lam):
    box = draw_box(random.Random(seed), lam, height, width)
    assert box_area(box) == pixels_of(box, height, width).sum()


@given(SEEDS, SIDES, SIDES, st.floats(0, 1))
def test_a_box_is_never_larger_than_asked_for(seed, height, width, lam):
    box = draw_box(random.Random(seed), lam, height, width)
    assert box_area(box) <= (1 - lam) * height * width + 1e-9


@given(SEEDS, SIDES, SIDES, st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_minmax_box_lies_in_the_image_and_keeps_its_bounds(seed, height, width, bounds):
    low, high = bounds
    box = draw_box_minmax(random.Random(seed), (low, high), height, width)
    assert_box_fits(lambda rng, h, w: draw_box_minmax(rng, (low, high), h, w), seed, height, width)
    assert int(low * height) <= box[2] - box[0] <= int(high * height)
    assert int(low * width) <= box[3] - box[1] <= int(high * width)


def test_a_box_drawn_for_a_turned_image_does_not_fit():
    def turned(rng, height, width):
        return draw_box(rng, 0.0, width, height)  # the whole image, up to where its centre lies

    with pytest.raises(AssertionError):
        assert_box_fits(turned, 0, 16, 48)


def test_the_centre_reaches_every_row_and_column():
    rng = random.Random(0)
    boxes = [draw_box(rng, 1 - 1 / 16, 8, 12) for _ in range(2000)]  # boxes of 2 x 3 before clipping
    assert {box[0] for box in boxes} == {*range(7)}
    assert {box[1] for box in boxes} == {*range(11)}
    assert {box[2] for box in boxes} == {*range(1, 9)}


def test_a_checked_box_is_whole_numbers():
    assert check_box((0.0, 1, 4, 5), 4, 5) == (0, 1, 4, 5)


@pytest.mark.parametrize("box", [(0, 0, 1), (0, 0, 1, 2, 3), (0, 0.5, 1, 2)])
def test_a_box_that_is_not_four_whole_numbers_is_refused(box, says):
    with says(ValueError, f"a box is four whole numbers (top, left, bottom, right), not {box}"):
        check_box(box, 4, 6)


@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (0, 0, 5, 2), (0, 0, 2, 7), (3, 0, 2, 2), (0, 3, 2, 2), (0, -1, 2, 2)])
def test_a_box_that_leaves_the_image_is_refused(box):
    with pytest.raises(ValueError, match="does not lie in an image") as error:
        check_box(box, 4, 6)
    top, left, bottom, right = box
    assert str(error.value) == (
        f"box (top {top}, left {left}, bottom {bottom}, right {right}) does not lie in an image of height 4 and width 6"
    )
