"""Fewer training images: balanced, nested, the same for every kind of sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transmix.data.dataset import DataError, Split, UnreadableImageError
from transmix.data.settings import Data
from transmix.data.source import load_data
from transmix.data.subset import choose


class Decodes:
    """Images that are decoded when asked for; the first pixel is the number of the image."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        assert isinstance(index, int)
        return self.images[index]

    def size(self, index):
        return self.images[index].shape[:2]


def split_of(labels, kind=np.asarray):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), dtype=np.uint8)
    masks = np.arange(len(labels))[:, None, None] * np.ones((1, 2, 3)) > 3
    return Split(kind(images), np.asarray(labels, dtype=np.int64), masks)


@given(st.lists(st.integers(0, 4), min_size=5, max_size=60).map(lambda more: [0, 1, 2, 3, 4, *more]), st.data())
def test_classes_are_as_equal_as_they_can_be_and_smaller_sets_lie_in_larger_ones(labels, data):
    count = data.draw(st.integers(5, len(labels)))
    split = split_of(labels)
    few = choose(split, count)
    numbers = few.images[:, 0, 0, 0]
    assert len(few) == count
    assert (np.diff(numbers) > 0).all()
    np.testing.assert_array_equal(few.labels, split.labels[numbers])
    np.testing.assert_array_equal(few.masks, split.masks[numbers])
    taken, there = np.bincount(few.labels, minlength=5), np.bincount(split.labels, minlength=5)
    assert all(taken[one] == there[one] or taken[one] >= taken.max() - 1 for one in range(5))
    if count < len(labels):
        assert set(numbers) < set(choose(split, count + 1).images[:, 0, 0, 0])


def test_arrays_lists_and_what_decodes_give_the_same():
    labels = [0, 1] * 10
    array, listed, decodes = (choose(split_of(labels, kind), 7) for kind in (np.asarray, list, Decodes))
    for index in range(7):
        np.testing.assert_array_equal(array.image(index), listed.image(index))
        np.testing.assert_array_equal(array.image(index), decodes.image(index))
    assert decodes.images.size(0) == (2, 3)


def test_what_is_known_to_be_bad_stays_so():
    split = split_of([0, 1] * 5)
    broken = Split(
        split.images, split.labels, bad={index: UnreadableImageError(str(index), "cut") for index in range(10)}
    )
    few = choose(broken, 4)
    assert sorted(few.bad) == [0, 1, 2, 3]
    assert [few.bad[index].where for index in range(4)] == [str(number) for number in few.images[:, 0, 0, 0]]


def test_too_many_and_too_few_are_refused():
    with pytest.raises(DataError, match=r"^train_images 11 is more than the 10 training images available$"):
        choose(split_of([0, 1] * 5), 11)
    with pytest.raises(DataError, match=r"^train_images 1 is less than one image for each of 2 classes$"):
        choose(split_of([0, 1] * 5), 1)


def test_a_recipe_asks_for_it_and_validation_stays_whole(images):
    whole = load_data(Data(str(images)), seed=0)
    few = load_data(Data(str(images), train_images=6), seed=1)
    assert (len(few.train), len(few.val)) == (6, len(whole.val))
    assert np.bincount(few.train.labels).tolist() == [3, 3]
    assert isinstance(few.train.images, np.ndarray)
    known = {image.tobytes() for image in whole.train.images}
    assert all(image.tobytes() in known for image in few.train.images)
