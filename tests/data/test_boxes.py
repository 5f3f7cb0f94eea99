"""What is cropped is what torchvision crops, what is erased is what timm erases; large crops lie on a grid."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import RandomResizedCrop

from transmix.data import boxes
from transmix.data.boxes import Box, crop_box, erased_box, whole_box
from transmix.data.seeding import global_generators

SCALE, RATIO = (0.08, 1.0), (0.75, 4 / 3)


def crops(height, width, size, count=1500, scale=SCALE):
    drawn = [crop_box(random.Random(key), height, width, scale, RATIO, size) for key in range(count)]
    return np.array([(box.top, box.left, box.height, box.width) for box in drawn]), drawn


def torchvisions(height, width, count=1500):
    image = torch.empty(3, height, width)
    with global_generators(5):
        return np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)])


def alike(ours, theirs):
    return min(ks_2samp(one, other).pvalue for one, other in zip(ours.T, theirs.T, strict=True)) > 1e-3


@pytest.mark.parametrize(("height", "width"), [(375, 500), (200, 640)])
def test_crops_are_distributed_as_torchvisions(height, width):
    theirs = torchvisions(height, width)
    assert alike(crops(height, width, 10**6)[0], theirs)
    assert not alike(crops(height, width, 10**6, scale=(0.2, 1.0))[0], theirs)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10)])
def test_where_no_crop_fits_it_is_torchvisions_central_one(height, width):
    found, _ = crops(height, width, 10**6, 20, scale=(1.0, 1.0))
    image = torch.empty(3, height, width)
    expected = RandomResizedCrop.get_params(image, [1.0, 1.0], list(RATIO))
    assert np.array_equal(found, np.broadcast_to(expected, found.shape))


def timms_erased(size, count):
    erase = RandomErasing(probability=1.0, mode="const", device="cpu")
    found = []
    with global_generators(3):
        for _ in range(count):
            rows, columns = np.nonzero(erase(torch.ones(1, size, size))[0].numpy() == 0)
            found.append((rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1))
    return np.array(found)


def test_erased_boxes_are_distributed_as_timms():
    size, theirs = 64, timms_erased(64, 1200)
    ours = np.array([erased_box(random.Random(key), size) for key in range(1200)])
    assert alike(ours, theirs)
    square = np.sqrt(ours[:, 2] * ours[:, 3])[:, None].round()
    assert not alike(np.hstack([ours[:, :2], square, square]), theirs)


@pytest.mark.parametrize(("height", "width"), [(1501, 2003), (480, 640), (1200, 900)])
def test_a_reduced_crop_still_has_the_inputs_side_and_lies_next_to_the_crop_that_was_drawn(height, width):
    size = 224
    (exact, _), (_, drawn) = crops(height, width, 10**6, 300), crops(height, width, size, 300)
    steps = {box.reduce for box in drawn}
    assert steps == ({1, 2, 4} if min(height, width) > 4 * size else {1, 2})
    for wanted, box in zip(exact, drawn, strict=True):
        assert box.reduce == 1 or min(box.height, box.width) >= size
        found = np.array([box.top, box.left, box.height, box.width]) * box.reduce
        assert np.abs(found - wanted).max() <= 1.5 * box.reduce - 0.5
        assert 0 <= found[0] <= height - found[2]
        assert 0 <= found[1] <= width - found[3]


def test_a_smaller_margin_would_be_noticed(monkeypatch):
    monkeypatch.setattr(boxes, "MARGIN", 0.5)
    assert any(box.reduce > 1 and min(box.height, box.width) < 224 for box in crops(480, 640, 224, 300)[1])


def test_a_whole_image_is_reduced_only_where_it_is_large():
    assert whole_box(223, 1000, 224) == Box(0, 0, 223, 1000)
    assert whole_box(447, 1000, 224) == Box(0, 0, 447, 1000)
    assert whole_box(449, 1001, 224) == Box(0, 0, 224, 500, 2)
    assert whole_box(4000, 5000, 224) == Box(0, 0, 500, 625, 8)
