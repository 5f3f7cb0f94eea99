"""Boxes over a data set: drawn from a seed, weighed as a slow loop does, ranked as a brute force does."""

import random

import numpy as np
import pytest
import torch

from transmix import AttentionReader
from transmix.visual import boxes as boxes_module
from transmix.visual.boxes import PastedBox, draw_boxes, judge, most_disputed, pairs_of
from transmix.visual.pairs import pairs_figure

SIZE, GRID = (32, 48), (4, 6)
IMAGES = torch.randint(0, 256, (7, 3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalise(images):
    return (images.float() / 255 - 0.5) / 0.25


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("deit_tiny_patch16_224", SIZE).eval()


def brute_force(model, boxes, downsample):
    """Weigh each box by itself: paste pixel rows, run the model, add up patches one by one."""
    weights = []
    for own, partner, (top, left, bottom, right) in boxes:
        image = IMAGES[own].clone()
        image[:, top:bottom, left:right] = IMAGES[partner][:, top:bottom, left:right]
        with AttentionReader(model, training=False, eval=True) as reader, torch.no_grad():
            model(normalise(image[None]))
            row = reader.take().row[0].double().numpy().reshape(GRID)
        inside = 0.0
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                if downsample == "nearest":
                    covered = float(top <= 8 * y < bottom and left <= 8 * x < right)
                else:
                    high = max(0, min(bottom, 8 * y + 8) - max(top, 8 * y))
                    wide = max(0, min(right, 8 * x + 8) - max(left, 8 * x))
                    covered = high * wide / 64
                inside += row[y, x] * covered
        area = (bottom - top) * (right - left) / (SIZE[0] * SIZE[1])
        weights.append((1 - area, 1 - inside / row.sum()))
    return np.array(weights)


@pytest.mark.parametrize("downsample", ["nearest", "fraction"])
def test_labels_and_order_are_those_of_a_brute_force(model, downsample, monkeypatch):
    monkeypatch.setattr(boxes_module, "BATCH", 16)  # so that the last batch is smaller
    boxes = draw_boxes(40, len(IMAGES), SIZE, seed=3)
    judged = judge(model, boxes, IMAGES.__getitem__, normalise, downsample=downsample)
    expected = brute_force(model, boxes, downsample)
    assert judged.grid == GRID
    assert judged.lam_area == pytest.approx(expected[:, 0], abs=1e-6)
    assert judged.lam_attention == pytest.approx(expected[:, 1], abs=1e-5)
    gaps = np.abs(expected[:, 0] - expected[:, 1])
    assert most_disputed(judged, 5) == sorted(range(40), key=lambda one: -gaps[one])[:5]
    empty = [one for one in range(40) if expected[one, 1] > expected[one, 0]]
    assert 0 < len(empty) < 40
    assert most_disputed(judged, 99, empty=True) == sorted(empty, key=lambda one: -gaps[one])
    other = brute_force(model, boxes, "nearest" if downsample == "fraction" else "fraction")
    assert np.abs(judged.lam_attention - other[:, 1]).max() > 1e-3


def test_the_drawn_bars_are_both_labels_of_the_boxes_that_differ_most(model):
    boxes = draw_boxes(20, len(IMAGES), SIZE, seed=1)
    judged = judge(model, boxes, IMAGES.__getitem__, normalise)
    chosen = most_disputed(judged, 3)
    pairs = pairs_of(judged, chosen, IMAGES.__getitem__, lambda one: f"class {one}")
    figure = pairs_figure(pairs, judged.grid, mask=True)
    pictures = [axes for axes in figure.axes if axes.images and not axes.axison]
    bars = [axes for axes in figure.axes if not axes.images]
    assert (len(pictures), len(bars)) == (15, 3)
    for row, position in enumerate(chosen):
        own, partner, (top, left, bottom, right) = boxes[position]
        shown = [np.asarray(axes.images[0].get_array()) for axes in pictures[5 * row : 5 * row + 5]]
        mask = np.zeros(SIZE)
        mask[top:bottom, left:right] = 1
        a, b = (IMAGES[one].numpy().transpose(1, 2, 0) / 255 for one in (own, partner))
        for found, expected in zip(shown, [a, b, mask, np.where(mask[..., None] > 0, b, a)], strict=False):
            assert found == pytest.approx(expected)
        lengths = [patch.get_width() for patch in bars[row].patches[2:]]
        shares = [lengths[0] / (lengths[0] + lengths[1]), lengths[2] / (lengths[2] + lengths[3])]
        assert shares == pytest.approx([judged.lam_area[position], judged.lam_attention[position]])
        texts = [text.get_text() for text in bars[row].texts]
        assert texts[:2] == [f"A: class {own}", f"B: class {partner}"]


def test_boxes_follow_from_the_seed_alone_and_no_other_generator_is_touched():
    before = random.getstate(), torch.get_rng_state()
    first = draw_boxes(50, 5, (20, 40), seed=1)
    random.seed(9)
    assert draw_boxes(50, 5, (20, 40), seed=1) == first
    assert draw_boxes(9, 5, (20, 40), seed=1) == first[:9]
    assert draw_boxes(50, 5, (20, 40), seed=2) != first
    random.setstate(before[0])
    draw_boxes(3, 5, (20, 40), seed=1)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    for own, partner, (top, left, bottom, right) in first:
        assert own != partner
        assert 0 <= top < bottom <= 20
        assert 0 <= left < right <= 40
    assert {one.own for one in first} == set(range(5))


def test_pairs_are_of_different_classes_where_there_are_several():
    labels = np.array([0, 0, 0, 1, 2])
    boxes = draw_boxes(60, 5, (20, 40), seed=1, labels=labels)
    assert all(labels[one.own] != labels[one.partner] for one in boxes)
    assert any(labels[one.own] == labels[one.partner] for one in draw_boxes(60, 5, (20, 40), seed=1))
    assert draw_boxes(9, 5, (20, 40), seed=1, labels=[3] * 5) == draw_boxes(9, 5, (20, 40), seed=1)


def test_one_image_makes_no_pair():
    with pytest.raises(ValueError, match=r"^a pair needs two images, got 1$"):
        draw_boxes(1, 1, (8, 8), seed=0)


def test_a_box_over_the_whole_image_gives_the_label_to_the_partner(model):
    judged = judge(model, [PastedBox(0, 1, (0, 0, *SIZE))], IMAGES.__getitem__, normalise)
    assert (judged.lam_area[0], judged.lam_attention[0]) == (0, pytest.approx(0, abs=1e-6))
