"""Numbers of the page against pixels that are counted and a softmax that is written out."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix.app.parts import attention_part
from transmix.app.picture import SAMPLES, sample
from transmix.app.values import Controls, Label, Setting, answer, box_within, percents, scaled_box, show

BOX = (30, 50, 140, 200)


@pytest.fixture(scope="module")
def pair(page_model):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *page_model.size), dtype=torch.uint8, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def explicit(page_model, pair):
    """Every layer's attention over the mixed image: (layers, G, P), by a hand-written forward of the blocks."""
    top, left, bottom, right = BOX
    images = pair[0].clone()[None]
    images[0, :, top:bottom, left:right] = pair[1][:, top:bottom, left:right]
    model, found = page_model.loaded.model, []
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(page_model.normalise(images))))
        for block in model.blocks:
            attention = block.attn
            normed = block.norm1(tokens)
            query, key, _ = attention.qkv(normed).reshape(1, -1, 3, attention.num_heads, 64).permute(2, 0, 3, 1, 4)
            weights = (query.double() @ key.double().transpose(-2, -1) / math.sqrt(64)).softmax(-1)
            found.append(weights[0, :, 0, 1:])
            tokens = block(tokens)
    return torch.stack(found)


def shares_of(attention, size, grid=(14, 14), nearest=True):
    """Share of the attention outside the box, patch by patch in a loop."""
    top, left, bottom, right = BOX
    patch, inside = size[0] // grid[0], 0.0
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = row * patch, column * patch
            if nearest:
                covered = float(top <= y < bottom and left <= x < right)
            else:
                tall = max(0, min(bottom, y + patch) - max(top, y))
                covered = tall * max(0, min(right, x + patch) - max(left, x)) / patch**2
            inside += covered * float(attention[row * grid[1] + column])
    return 1 - inside / float(attention.sum())


@pytest.mark.parametrize(("layer", "head"), [(-1, -1), (-1, 2), (3, -1), (0, 1)])
@pytest.mark.parametrize("downsample", ["nearest", "fraction"])
def test_the_label_is_what_pixels_and_an_explicit_softmax_give(layer, head, downsample, page_model, pair, explicit):
    shown = show(Setting(BOX, layer=layer, head=head, downsample=downsample), *pair, page_model)
    row = explicit[layer].mean(0) if head == -1 else explicit[layer][head]
    torch.testing.assert_close(shown.attention.double(), row, atol=1e-6, rtol=0)
    area = 1 - 110 * 150 / 224**2
    attended = shares_of(row, page_model.size, nearest=downsample == "nearest")
    assert shown.lam["area"] == pytest.approx(area, abs=1e-6)
    assert shown.lam["attention"] == pytest.approx(attended, abs=1e-5)
    assert shown.lam["trained"] == pytest.approx((area + attended) / 2, abs=1e-5)
    other = shares_of(row, page_model.size, nearest=downsample != "nearest")
    assert abs(shown.lam["attention"] - other) > 1e-4  # another way down to patches would be seen


def test_the_mixed_image_is_b_in_the_box_and_a_elsewhere(page_model, pair):
    mixed = show(Setting(BOX), *pair, page_model).mixed
    top, left, bottom, right = BOX
    expected = pair[0].clone()
    expected[:, top:bottom, left:right] = pair[1][:, top:bottom, left:right]
    assert mixed.equal(expected)
    blended = show(Setting(BOX, lam=0.25, method="mixup"), *pair, page_model)
    assert (blended.mixed - (0.25 * pair[0] + 0.75 * pair[1]).round()).abs().max() <= 1
    assert set(blended.lam.values()) == {0.25}
    assert "A blend has no box" in blended.remarks[0]


@pytest.mark.parametrize(
    ("box", "lam", "remark"),
    [((9, 9, 9, 40), 1.0, "The box is empty"), ((0, 0, 224, 224), 0.0, "The box covers the whole picture")],
)
def test_an_empty_box_leaves_a_its_label_and_a_full_one_takes_it(box, lam, remark, page_model, pair):
    shown = show(Setting(box), *pair, page_model)
    assert [shown.lam[rule] for rule in ("area", "attention", "trained")] == [pytest.approx(lam, abs=1e-6)] * 3
    assert shown.remarks[0].startswith(remark)


@given(
    st.tuples(*[st.integers(0, 60)] * 4).map(lambda c: (min(c[0], c[1]), min(c[2], c[3]), max(c[0], c[1]), max(c[2:]))),
    st.floats(0, 1),
)
def test_a_scaled_box_stays_inside_and_has_the_area_to_a_pixel_of_a_side(box, lam):
    top, left, bottom, right = scaled_box(box, lam, 60, 80)
    assert 0 <= top <= bottom <= 60
    assert 0 <= left <= right <= 80
    assert abs((bottom - top) * (right - left) - (1 - lam) * 60 * 80) <= 60 / 2 + 80 / 2 + 1


@settings(max_examples=200)
@given(st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4))
def test_any_typed_box_is_brought_inside(sides):
    top, left, bottom, right = box_within(sides, 60, 80)
    assert 0 <= top <= bottom <= 60
    assert 0 <= left <= right <= 80


@pytest.mark.parametrize("sides", [[1, 2, 3], [1, 2, 3, None], [1, 2, 3, float("nan")]])
def test_a_box_needs_four_numbers(sides):
    with pytest.raises(ValueError, match=r"^The box needs four numbers: top, left, bottom and right in pixels\.$"):
        box_within(sides, 60, 80)


def test_half_of_the_attention_is_counted_patch_by_patch(page_model, pair):
    shown = show(Setting(BOX), *pair, page_model)
    row, count, held = sorted(shown.attention.double().tolist(), reverse=True), 0, 0.0
    while held < sum(row) / 2:
        held, count = held + row[count], count + 1
    assert shown.half == count
    even = replace(shown, attention=torch.full((196,), 1 / 196))
    assert even.half == 98
    one = torch.full((196,), 0.001)
    one[7] = 1.0
    assert replace(shown, attention=one).half == 1
    words = attention_part(even, Setting(BOX))
    assert "Half of the attention lies on 98 of 196 patches (50%); spread evenly, it would need 98 of 196" in words


def test_two_weights_of_their_own_are_shown_as_they_are():
    assert percents(Label(0.7, 0.2)) == (70.0, 20.0)


@given(st.floats(0, 1))
def test_shares_sum_to_a_hundred(lam):
    own, partner = percents(Label(lam, 1 - lam))
    assert round(own + partner, 6) == 100
    assert own == pytest.approx(100 * lam, abs=0.051)


def test_the_ratio_scales_the_box_set_by_hand_and_a_wrong_box_is_said(page_model):
    own, partner = map(sample, SAMPLES)
    asked = Controls(own, partner, (0, 0, 1, 1), (56, 56, 168, 168), ratio=0.5, moved="ratio")
    found = answer(asked, page_model)
    assert found.lam == pytest.approx(0.5, abs=0.01)
    assert found.anchor == (56, 56, 168, 168)
    found = answer(Controls(own, partner, (0, 0, None, 1), (56, 56, 168, 168), moved="box"), page_model)
    assert found.errors == ("The box needs four numbers: top, left, bottom and right in pixels.",)
    assert found.setting.box == (56, 56, 168, 168)


def test_one_image_alone_is_asked_for_the_other(page_model):
    found = answer(Controls(sample(SAMPLES[0]), None, (0, 0, 9, 9), (0, 0, 9, 9)), page_model)
    assert found.shown is None
    assert found.remarks[0].startswith("There is no image B yet")
