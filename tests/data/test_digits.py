"""The embedded data set: honest splits, masks that match the pixels, and boxes that are really empty."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import transmix.data.digits as module
from transmix.data.digits import (
    TEXTURE_COLUMNS,
    digits_on_textures,
    load_sources,
    render,
    render_background,
    sketch,
    split_originals,
)

SMALL = {"train_copies": 1, "val_copies": 1}
PARTS = ["train", "val"]


@pytest.fixture(scope="module")
def sources():
    return load_sources()


@pytest.fixture(scope="module")
def drawings():
    """Render the data with one drawing an original, and record every sketch on the way, by split."""
    seen = {part: [] for part in PARTS}

    def spy(original, part, *rest):
        seen[part].append(sketch(original, part, *rest))
        return seen[part][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sketch", spy)
        return digits_on_textures(0, **SMALL), seen


@pytest.fixture(scope="module")
def data(drawings):
    return drawings[0]


@pytest.fixture(scope="module")
def seen(drawings):
    return drawings[1]


def splits_equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("images", "labels", "masks"))


def global_states():
    return random.getstate(), np.append(*np.random.get_state()[1:3]).tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_same_seed_gives_the_same_pixels_another_seed_others_and_no_global_random_state_counts(data):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    before = global_states()
    again, other = digits_on_textures(0, **SMALL), digits_on_textures(1, **SMALL)
    assert global_states() == before
    for part in PARTS:
        assert splits_equal(getattr(data, part), getattr(again, part))
        assert not splits_equal(getattr(data, part), getattr(other, part))


def test_another_seed_deals_the_originals_out_differently(sources):
    rows = [split_originals(sources.labels, 0.2, np.random.default_rng(seed))["val"] for seed in (0, 1)]
    assert not np.array_equal(*rows)


def test_more_training_copies_leave_validation_as_it_was(data):
    assert splits_equal(data.val, digits_on_textures(0, train_copies=2, val_copies=1).val)


@pytest.mark.parametrize("size", [24, 40])
def test_shapes_types_and_classes_are_as_promised(size):
    data = digits_on_textures(3, image_size=size, **SMALL)
    assert data.classes == tuple("0123456789")
    for split in (data.train, data.val):
        count = len(split.labels)
        assert split.images.shape == (count, size, size, 3)
        assert split.masks.shape == (count, size, size)
        assert (split.images.dtype, split.labels.dtype, split.masks.dtype) == (np.uint8, np.int64, np.bool_)
    assert len(data.train.labels) + len(data.val.labels) == 1797


def test_copies_multiply_the_originals_and_are_all_different(data):
    more = digits_on_textures(0, train_copies=1, val_copies=3).val
    count = len(data.val.labels)
    assert np.array_equal(more.labels, np.tile(data.val.labels, 3))
    assert not (more.images[:count] == more.images[count : 2 * count]).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(("part", "share"), [("train", 0.8), ("val", 0.2)])
def test_every_class_has_its_share_of_each_split_to_one_original(data, sources, part, share):
    counts = np.bincount(getattr(data, part).labels, minlength=10)
    assert np.abs(counts - share * np.bincount(sources.labels)).max() <= 0.5 + 1e-9
    assert counts.max() / counts.min() < 1.07


def test_no_original_is_drawn_in_both_splits(data, seen, sources):
    originals = {part: [drawing.original for drawing in seen[part]] for part in PARTS}
    assert not set(originals["train"]) & set(originals["val"])
    assert set(originals["train"]) | set(originals["val"]) == set(range(1797))
    for part in PARTS:
        assert np.array_equal(getattr(data, part).labels, sources.labels[originals[part]])
    inks = {part: {sources.ink[row].tobytes() for row in originals[part]} for part in PARTS}
    assert not inks["train"] & inks["val"], "two originals with the same pixels, one in each split"


def test_no_pixel_of_a_photograph_is_texture_in_both_splits(seen, sources):
    used = {part: [np.zeros(photo.shape[:2], dtype=bool) for photo in sources.photos] for part in PARTS}
    for part in PARTS:
        for drawing in seen[part]:
            left, top, side = drawing.texture
            area = used[part][drawing.photo][top : top + side, left : left + side]
            assert area.shape == (side, side), "the texture leaves the photograph"
            area[:] = True
    for train, val in zip(used["train"], used["val"], strict=True):
        assert not (train & val).any()
        assert train.mean() > 0.5  # both splits use most of what they may
        assert val.mean() > 0.3


def test_the_texture_columns_of_the_splits_do_not_overlap():
    assert TEXTURE_COLUMNS["train"][1] <= TEXTURE_COLUMNS["val"][0]


def test_images_are_the_pure_background_outside_the_mask_and_differ_inside(data, seen, sources):
    for part in PARTS:
        split = getattr(data, part)
        backgrounds = np.stack([render_background(drawing, sources, 32) for drawing in seen[part]])
        changed = (split.images != backgrounds).any(axis=-1)
        assert not changed[~split.masks].any()
        assert changed[split.masks].mean() > 0.998  # a texture's pixel may have the stroke's colour by chance
        assert (changed & split.masks).any(axis=(1, 2)).all()


def test_the_stroke_stands_out_from_the_background_it_covers_in_both_directions(data, seen, sources):
    split = data.val
    steps = []
    for drawing, image, mask in zip(seen["val"], split.images, split.masks, strict=True):
        background = render_background(drawing, sources, 32)
        steps.append(float(image[mask].mean()) - float(background[mask].mean()))
    assert np.median(np.abs(steps)) > 60  # of 255
    assert 0.2 < np.mean(np.array(steps) > 0) < 0.8


def test_the_stroke_lies_within_the_square_of_the_sketch(sources):
    drawing = sketch(7, "train", sources, 32, (0.6, 0.9), np.random.default_rng(0))
    drawing = replace(drawing, digit=(2, 9, 20))
    mask = render(drawing, sources, 32)[1]
    rows, columns = mask.nonzero()
    assert set(columns) <= set(range(2, 22))
    assert set(rows) <= set(range(9, 29))


def test_many_boxes_hold_no_stroke_and_many_hold_some(data):
    rng = np.random.default_rng(0)
    masks = data.train.masks
    side = 12  # a box of 14 % of the image
    corners = rng.integers(32 - side + 1, size=(len(masks), 2))
    boxes = [mask[top : top + side, left : left + side] for mask, (top, left) in zip(masks, corners, strict=True)]
    empty = np.mean([not box.any() for box in boxes])
    assert 0.05 < empty < 0.5
    assert 0.1 < masks.mean() < 0.3


@pytest.mark.parametrize("scale", [(0.9, 0.6), (0.0, 0.5), (0.6, 1.1), (0.2, 0.9)])
def test_a_scale_that_leaves_no_room_is_refused(scale):
    with pytest.raises(ValueError, match="no room"):
        digits_on_textures(scale=scale)
