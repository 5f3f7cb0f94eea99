"""Splits fit together, class lists are compared by name, and what fits in memory is decoded once."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from transmix.data.dataset import (
    DataError,
    ImageData,
    Split,
    class_difference,
    keep_decoded,
    listing,
    require_every_class,
)


@dataclass
class LazyImages:
    """Images that count how often they are decoded; image i is filled with i."""

    sizes: list
    decoded: list = field(default_factory=list)
    measured: list = field(default_factory=list)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.decoded.append(index)
        return np.full((*self.sizes[index], 3), index % 251, dtype=np.uint8)

    def size(self, index):
        self.measured.append(index)
        return self.sizes[index]


def lazy_split(sizes):
    return Split(LazyImages(list(sizes)), np.arange(len(sizes)) % 2)


def test_images_of_one_size_are_kept_as_one_array():
    split = lazy_split([(4, 6)] * 5)
    kept = keep_decoded(split, limit_bytes=5 * 4 * 6 * 3)
    assert isinstance(kept.images, np.ndarray)
    assert kept.images.shape == (5, 4, 6, 3)
    assert kept.images.dtype == np.uint8
    np.testing.assert_array_equal(kept.images[:, 0, 0, 0], range(5))
    assert kept.labels is split.labels


def test_one_odd_image_among_many_unseen_by_the_estimate_is_kept_whole():
    sizes = [(2, 3)] * 1000
    sizes[500] = (5, 2)
    split = lazy_split(sizes)
    kept = keep_decoded(split, limit_bytes=10**6)
    assert len(split) == 1000
    assert 500 not in split.images.measured
    assert isinstance(kept.images, list)
    assert [image.shape[:2] for image in kept.images] == sizes
    assert [image[0, 0, 0] for image in kept.images] == [index % 251 for index in range(1000)]


def test_masks_stay_with_the_images():
    masks = np.zeros((2, 4, 6), dtype=bool)
    kept = keep_decoded(Split(LazyImages([(4, 6)] * 2), np.arange(2), masks), limit_bytes=10**6)
    assert kept.masks is masks


def test_what_does_not_fit_is_left_alone_and_not_decoded():
    split = lazy_split([(4, 6)] * 5)
    assert keep_decoded(split, limit_bytes=5 * 4 * 6 * 3 - 1) is split
    assert split.images.decoded == []


def test_the_estimate_looks_at_no_more_than_256_images_from_first_to_last():
    split = lazy_split([(2, 3)] * 1000)
    keep_decoded(split, limit_bytes=0)
    assert len(split.images.measured) == 256
    assert split.images.measured[0] == 0
    assert split.images.measured[-1] == 999
    assert set(np.diff(split.images.measured)) == {3, 4}


def test_every_image_is_measured_where_there_are_few():
    split = lazy_split([(1, 1), (100, 100)])
    assert keep_decoded(split, limit_bytes=30_002) is split
    assert keep_decoded(split, limit_bytes=30_003) is not split


@pytest.mark.parametrize("images", [np.zeros((2, 3, 4, 3), np.uint8), [np.zeros((3, 4, 3))] * 2, LazyImages([])])
def test_a_decoded_or_empty_split_is_returned_as_it_is(images):
    split = Split(images, np.arange(len(images)))
    assert keep_decoded(split, limit_bytes=0) is split


def test_a_split_refuses_parts_of_different_lengths():
    images = np.zeros((3, 2, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"the same length, got \[2, 3\]"):
        Split(images, np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match=r"the same length, got \[1, 3\]"):
        Split(images, np.zeros(3, dtype=np.int64), masks=np.zeros((1, 2, 4), dtype=bool))


def test_two_classes_of_one_name_are_an_error():
    split = lazy_split([(2, 3)] * 3)
    with pytest.raises(DataError, match=r"^pets: class names appear twice: cat; rename one of each$"):
        ImageData("pets", ("cat", "dog", "cat"), split, split)


def test_class_difference_names_both_sides():
    assert class_difference(["a", "b", "c"], ["c", "d"]) == "missing: a, b; unexpected: d"
    assert class_difference(["a", "b"], ["b", "c", "a"]) == "unexpected: c"
    assert class_difference(["a", "b"], ["b", "a"]) == ""


def test_a_long_list_of_names_is_cut():
    assert listing("abc") == "a, b, c"
    assert listing(map(str, range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_a_class_without_an_image_is_an_error():
    require_every_class(np.array([1, 0, 2]), ["a", "b", "c"], "train")
    with pytest.raises(DataError, match=r"^train: no image of class a, c; add some or drop the class"):
        require_every_class(np.array([1, 1]), ["a", "b", "c"], "train")
