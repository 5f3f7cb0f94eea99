"""The label rule: laws over random batches, two slow oracles, and wrong rules that the laws must reject."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from transmix import Draw, Mixed, attention_labels, cutmix, mixup
from transmix.attention.grid import find_grid
from transmix.labels.patches import mask_on_patches

REFERENCE = Path(__file__).with_name("transmix_cases.json")
"""Numbers that the reference implementation produced (its repository's code for CutMix and TransMix labels)."""


@dataclass
class Case:
    """A mixed batch, attention for it, and settings of the rule."""

    mixed: Mixed
    attention: torch.Tensor
    grid: tuple[int, int]
    weight: float = 0.5
    downsample: str = "nearest"

    def run(self, rule, **changes):
        case = replace(self, **changes)
        return rule(case.mixed, case.attention, grid=case.grid, weight=case.weight, downsample=case.downsample)


@st.composite
def cases(draw, aligned=False):
    """Batches of any size, with one box, a box per row, or rows that are boxes, blends and unmixed; any grid."""
    size, h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    patch_height, patch_width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    height, width = h * patch_height, w * patch_width
    if not aligned:  # sizes that the grid does not divide
        height, width = height + draw(st.integers(0, 3)), width + draw(st.integers(0, 3))

    def box():
        rows, columns = (h, w) if aligned else (height, width)
        top, bottom = sorted((draw(st.integers(0, rows)), draw(st.integers(0, rows))))
        left, right = sorted((draw(st.integers(0, columns)), draw(st.integers(0, columns))))
        if aligned:
            return top * patch_height, left * patch_width, bottom * patch_height, right * patch_width
        return top, left, bottom, right

    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    images = torch.rand(size, 1, height, width, generator=rng)
    labels = torch.randint(0, 9, (size,), generator=rng)
    kind = draw(st.sampled_from(["one box", "a box per row", "elem"]))
    if kind == "one box":
        mixed = cutmix(images, labels, box())
    elif kind == "a box per row":
        mixed = cutmix(images, labels, [box() for _ in range(size)])
    else:
        boxes = [box() if draw(st.booleans()) else None for _ in range(size)]
        lam = [1 - _area(b) / (height * width) if b else draw(st.floats(0, 1, width=32)) for b in boxes]
        partner = draw(st.permutations(range(size)))
        mixed = Draw(height, width, tuple(partner), tuple(lam), tuple(boxes)).apply(images, labels)
    attention = torch.randn(size, h * w, generator=rng).mul(2).exp()
    weight, downsample = draw(st.floats(0, 1)), draw(st.sampled_from(["nearest", "fraction"]))
    return Case(mixed, attention, (h, w), weight, downsample)


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def masks(mixed):
    """(B, H, W), all False for rows without a box."""
    size = len(mixed.labels)
    if mixed.mask is None:
        return np.zeros((size, *mixed.images.shape[-2:]), dtype=bool)
    return mixed.mask.expand(size, -1, -1).numpy()


def patches_by_nearest(mask, h, w):
    """The slow way: the pixel at the top left of each patch."""
    height, width = mask.shape
    down, across = np.float32(height / h), np.float32(width / w)
    return np.array(
        [[mask[int(np.float32(i) * down), int(np.float32(j) * across)] for j in range(w)] for i in range(h)],
        dtype=float,
    )


def patches_by_fraction(mask, h, w):
    """The slow way, exact: cut each pixel into h x w, so that every patch is a whole number of pieces."""
    height, width = mask.shape
    pieces = mask.repeat(h, axis=0).repeat(w, axis=1).astype(float)
    return np.array(
        [
            [pieces[i * height : (i + 1) * height, j * width : (j + 1) * width].mean() for j in range(w)]
            for i in range(h)
        ]
    )


def weights_by_row(case):
    """The rule in slow float64, one row at a time."""
    down = {"nearest": patches_by_nearest, "fraction": patches_by_fraction}[case.downsample]
    lam = []
    for mask, attention, area in zip(
        masks(case.mixed), case.attention.double().numpy(), case.mixed.lam_area, strict=True
    ):
        if not mask.any():
            lam.append(float(area))
            continue
        pasted = down(mask, *case.grid).reshape(-1)
        by_attention = (attention * (1 - pasted)).sum() / attention.sum()
        lam.append(case.weight * by_attention + (1 - case.weight) * float(area))
    return np.array(lam)


# ------------------------------------------------------------------------------------------------- the laws


def equals_the_slow_rule(rule, case):
    assert np.allclose(case.run(rule).lam, weights_by_row(case), atol=1e-6)


def weights_lie_between_0_and_1(rule, case):
    lam = case.run(rule).lam
    assert lam.dtype == torch.float32
    assert lam.shape == case.mixed.lam.shape
    assert ((lam >= 0) & (lam <= 1)).all()


def scaling_attention_changes_nothing(rule, case):
    for scale in (1e-4, 3.0, 1e4):
        assert torch.allclose(case.run(rule, attention=case.attention * scale).lam, case.run(rule).lam, atol=1e-6)


def an_empty_box_keeps_the_own_label(rule, case):
    empty = cutmix(case.mixed.images, case.mixed.labels, (0, 0, 0, 0))
    assert torch.equal(case.run(rule, mixed=empty).lam, torch.ones(len(empty.labels)))


def a_full_box_gives_the_partners_label(rule, case):
    full = cutmix(case.mixed.images, case.mixed.labels, (0, 0, *case.mixed.images.shape[-2:]))
    lam = case.run(rule, mixed=full, downsample="nearest").lam
    assert torch.allclose(lam, torch.zeros(len(lam)), atol=1e-6)


def more_attention_in_the_box_never_lowers_the_partner(rule, case):
    down = {"nearest": patches_by_nearest, "fraction": patches_by_fraction}[case.downsample]
    inside = torch.tensor(np.array([down(mask, *case.grid).reshape(-1) == 1 for mask in masks(case.mixed)]))
    more = torch.where(inside, case.attention * 2, case.attention)
    assert (case.run(rule, attention=more).lam <= case.run(rule).lam + 1e-6).all()


def permuting_the_batch_permutes_the_weights(rule, case):
    mixed, order = case.mixed, torch.arange(len(case.mixed.labels)).roll(1)
    mask = mixed.mask if mixed.mask is None or len(mixed.mask) == 1 else mixed.mask[order]
    moved = replace(
        mixed,
        images=mixed.images[order],
        labels=mixed.labels[order],
        partner=order.argsort()[mixed.partner[order]],
        lam=mixed.lam[order],
        lam_area=mixed.lam_area[order],
        mask=mask,
    )
    expected, got = case.run(rule), case.run(rule, mixed=moved, attention=case.attention[order])
    assert torch.allclose(got.lam, expected.lam[order], atol=1e-6)
    assert torch.allclose(got.targets(9), expected.targets(9)[order], atol=1e-6)


def applying_it_twice_changes_nothing(rule, case):
    once = case.run(rule)
    assert torch.equal(case.run(rule, mixed=once).lam, once.lam)


def rows_without_a_box_keep_their_label(rule, case):
    without = torch.tensor(~masks(case.mixed).any((1, 2)))
    assert torch.equal(case.run(rule).lam[without], case.mixed.lam_area[without])


def mixup_keeps_its_label(rule, case):
    blended = mixup(case.mixed.images, case.mixed.labels, torch.linspace(0.1, 0.9, len(case.mixed.labels)))
    assert torch.equal(case.run(rule, mixed=blended).lam, blended.lam)


def no_gradient_reaches_the_label(rule, case):
    lam = case.run(rule, attention=case.attention.clone().requires_grad_()).lam
    assert not lam.requires_grad


def weight_0_is_the_area_label(rule, case):
    assert torch.allclose(case.run(rule, weight=0.0).lam, case.mixed.lam_area, atol=1e-7)


def attention_all_in_the_box_is_the_partners_at_weight_1(rule, case):
    down = patches_by_fraction(np.ones(case.mixed.images.shape[-2:], dtype=bool), *case.grid)
    assert (down == 1).all()
    box_masks = masks(case.mixed)
    inside = np.array([patches_by_nearest(mask, *case.grid).reshape(-1) for mask in box_masks])
    rows = torch.tensor(inside.any(1))
    attention = torch.tensor(inside, dtype=torch.float32) + torch.tensor(~inside.any(1))[:, None]
    lam = case.run(rule, attention=attention, weight=1.0, downsample="nearest").lam
    assert torch.allclose(lam[rows], torch.zeros(int(rows.sum())), atol=1e-6)


def all_else_stays_as_it_was(rule, case):
    after = case.run(rule)
    for name in ("images", "labels", "partner", "lam_area", "mask"):
        assert getattr(after, name) is getattr(case.mixed, name)
    assert after.rule == "attention"
    assert case.mixed.rule == "area"


def sums_are_float32_under_autocast(rule, case):
    attention = case.attention.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = case.run(rule, attention=attention)
    assert low.lam.dtype == torch.float32
    assert torch.equal(low.lam, case.run(rule, attention=attention.float()).lam)


def uniform_attention_on_aligned_boxes_is_the_area_label(rule, case):
    uniform = torch.full_like(case.attention, 0.37)
    assert torch.allclose(case.run(rule, attention=uniform).lam, case.mixed.lam_area, atol=1e-6)


LAWS = (
    equals_the_slow_rule,
    weights_lie_between_0_and_1,
    scaling_attention_changes_nothing,
    an_empty_box_keeps_the_own_label,
    a_full_box_gives_the_partners_label,
    more_attention_in_the_box_never_lowers_the_partner,
    permuting_the_batch_permutes_the_weights,
    applying_it_twice_changes_nothing,
    rows_without_a_box_keep_their_label,
    mixup_keeps_its_label,
    no_gradient_reaches_the_label,
    weight_0_is_the_area_label,
    attention_all_in_the_box_is_the_partners_at_weight_1,
    all_else_stays_as_it_was,
    sums_are_float32_under_autocast,
)


@pytest.mark.parametrize("law", LAWS)
@given(case=cases())
def test_the_rule_obeys(law, case):
    law(attention_labels, case)


@given(case=cases(aligned=True))
def test_the_rule_obeys_on_whole_patches(case):
    uniform_attention_on_aligned_boxes_is_the_area_label(attention_labels, case)


# ------------------------------------------------------------------------------------- rules that are wrong


def a_rule(
    mixed,
    attention,
    *,
    grid,
    weight,
    downsample,
    turn=lambda grid: grid,
    cast=lambda attention: attention.float(),
    pasted=lambda pasted: pasted,
    total=lambda attention: attention.sum(1),
    detach=True,
    area=lambda mixed: mixed.lam_area,
    keep_boxless=True,
    finish=lambda lam: lam,
):
    """The rule once more, with an opening for every mistake; without one it is right."""
    if mixed.mask is None and keep_boxless:
        return replace(mixed, lam=mixed.lam_area, rule="attention")
    attention = attention.detach() if detach else attention
    mask = torch.zeros(len(mixed.lam), *mixed.images.shape[-2:], dtype=torch.bool) if mixed.mask is None else mixed.mask
    on_patches = pasted(mask_on_patches(mask, turn(grid), downsample)).flatten(1)
    lam = weight * (cast(attention) * (1 - on_patches)).sum(1) / total(cast(attention))
    lam = lam + (1 - weight) * area(mixed)
    if keep_boxless:
        lam = torch.where(mask.flatten(1).any(1), lam, mixed.lam_area)
    return replace(mixed, lam=finish(lam), rule="attention")


def with_the_class_token(mixed, attention, **settings):
    """Columns moved by one: the class token's own is taken for the first patch."""
    return a_rule(mixed, torch.cat([2 * attention.mean(1, keepdim=True), attention[:, :-1]], 1), **settings)


def mistaken(**mistake):
    return lambda *batch, **settings: a_rule(*batch, **settings, **mistake)


WRONG = {
    "box inverted": (
        mistaken(pasted=lambda pasted: 1 - pasted),
        [equals_the_slow_rule, a_full_box_gives_the_partners_label, more_attention_in_the_box_never_lowers_the_partner],
    ),
    "H and W swapped": (
        mistaken(turn=lambda grid: grid[::-1]),
        [equals_the_slow_rule, attention_all_in_the_box_is_the_partners_at_weight_1],
    ),
    "class token left in": (
        with_the_class_token,
        [equals_the_slow_rule, attention_all_in_the_box_is_the_partners_at_weight_1],
    ),
    "class token left in the sum": (
        mistaken(total=lambda attention: attention.sum(1) + 0.3),
        [equals_the_slow_rule, scaling_attention_changes_nothing],
    ),
    "not normalised": (
        mistaken(total=lambda attention: 1),
        [scaling_attention_changes_nothing, weights_lie_between_0_and_1],
    ),
    "gradient reaches the label": (mistaken(detach=False), [no_gradient_reaches_the_label]),
    "Mixup touched": (mistaken(keep_boxless=False), [mixup_keeps_its_label, rows_without_a_box_keep_their_label]),
    "lam turned": (
        mistaken(finish=lambda lam: 1 - lam),
        [equals_the_slow_rule, an_empty_box_keeps_the_own_label, weight_0_is_the_area_label],
    ),
    "starts from lam": (mistaken(area=lambda mixed: mixed.lam), [applying_it_twice_changes_nothing]),
    "mean of the batch": (
        mistaken(finish=lambda lam: lam.mean().expand(len(lam))),
        [equals_the_slow_rule, rows_without_a_box_keep_their_label],
    ),
    "columns read before rows": (
        mistaken(pasted=lambda pasted: pasted.transpose(1, 2)),
        [equals_the_slow_rule, attention_all_in_the_box_is_the_partners_at_weight_1],
    ),
    "summed in bfloat16": (mistaken(cast=lambda attention: attention), [sums_are_float32_under_autocast]),
    "autocast left on": (mistaken(), [sums_are_float32_under_autocast]),
    "rows mixed up": (
        lambda mixed, attention, **settings: a_rule(mixed, attention.roll(1, 1), **settings),
        [equals_the_slow_rule, attention_all_in_the_box_is_the_partners_at_weight_1],
    ),
}
REJECTIONS = [(name, law) for name, (_, laws) in WRONG.items() for law in laws]


def assert_rejected(law, rule, source):
    @settings(
        max_examples=150,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(case=source)
    def check(case):
        law(rule, case)

    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(("name", "law"), REJECTIONS, ids=[f"{name}-{law.__name__}" for name, law in REJECTIONS])
def test_a_wrong_rule_is_rejected(name, law):
    assert_rejected(law, WRONG[name][0], cases())


@pytest.mark.parametrize("name", ["box inverted", "H and W swapped", "class token left in the sum", "lam turned"])
def test_a_wrong_rule_is_rejected_on_whole_patches(name):
    assert_rejected(uniform_attention_on_aligned_boxes_is_the_area_label, WRONG[name][0], cases(aligned=True))


@settings(max_examples=20)
@given(case=cases())
def test_without_a_mistake_the_rewritten_rule_is_right(case):
    for law in (equals_the_slow_rule, mixup_keeps_its_label, applying_it_twice_changes_nothing):
        law(a_rule, case)


# ------------------------------------------------------------------------------- the reference implementation


def assert_equals_reference(case, rule):
    size, patch, classes = case["image_size"], case["patch"], case["num_classes"]
    top, bottom, left, right = case["box_yyxx"]
    labels = torch.tensor(case["labels"])
    mixed = cutmix(torch.zeros(len(labels), 3, size, size), labels, (top, left, bottom, right))
    attention = torch.tensor(case["attention"])
    assert attention.shape == (len(labels), (size // patch) ** 2)
    by_area, by_attention = mixed, rule(mixed, attention)
    for got, name in ((by_area, "cutmix_target"), (by_attention, "transmix_target")):
        expected = torch.tensor(case[name])
        assert torch.allclose(got.targets(classes, case["smoothing"]), expected, rtol=0, atol=1e-6)


def reference_cases():
    return json.loads(REFERENCE.read_text())


def test_area_and_transmix_labels_equal_the_reference_implementation():
    cases = reference_cases()
    assert len(cases) == 10
    for case in cases:
        assert_equals_reference(case, attention_labels)


@pytest.mark.parametrize("name", ["box inverted", "columns read before rows", "class token left in", "lam turned"])
def test_the_reference_rejects_a_wrong_rule(name):
    def wrong(mixed, attention):
        side = math.isqrt(attention.shape[1])
        return WRONG[name][0](mixed, attention, grid=(side, side), weight=0.5, downsample="nearest")

    rejected = 0
    for case in reference_cases():
        try:
            assert_equals_reference(case, wrong)
        except AssertionError:
            rejected += 1
    assert rejected >= 5  # in others labels agree, or the box is empty or lies on the diagonal


# ------------------------------------------------------------------------------------------ grids, refusals


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_the_grid_of_square_patches_is_found(h, w, patch):
    assert find_grid(h * w, h * patch, w * patch) == (h, w)


STEMS = {
    "patches": lambda stride: nn.Conv2d(1, 1, stride, stride),  # rounds down
    "padded": lambda stride: nn.Conv2d(1, 1, 2 * stride - 1, stride, padding=stride - 1),  # rounds up
}


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEMS)), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(16, 90),
    st.integers(16, 90),
)
def test_the_grid_that_strided_layers_leave_is_found_or_refused_but_never_another(layers, height, width):
    stack = nn.Sequential(*(STEMS[kind](stride) for kind, stride in layers))
    try:
        h, w = stack(torch.zeros(1, 1, height, width)).shape[2:]
    except RuntimeError:  # nothing is left of the image
        return
    try:
        found = find_grid(h * w, height, width)
    except ValueError:
        stride = math.prod(stride for _, stride in layers)
        assert (h * stride, w * stride) != (height, width)  # only what was rounded may be refused
    else:
        assert found == (h, w)


@pytest.mark.parametrize(
    ("grid", "height", "width"), [((7, 7), 224, 224), ((13, 17), 200, 259), ((6, 7), 195, 224), ((7, 8), 223, 230)]
)
def test_the_grid_of_sides_that_the_stride_does_not_divide_is_found(grid, height, width):
    assert find_grid(grid[0] * grid[1], height, width) == grid


@pytest.mark.parametrize(("patches", "height", "width"), [(15, 32, 32), (16, 32, 48), (2, 32, 32), (0, 8, 8)])
def test_a_grid_that_does_not_fit_is_refused(patches, height, width, says):
    with says(ValueError, f"{patches} patches do not make one grid over a {height} x {width} image; pass grid=(h, w)"):
        find_grid(patches, height, width)


def test_a_grid_of_which_there_are_several_is_refused(says):
    with says(
        ValueError, "4 patches do not make one grid over a 7 x 16 image (it could be 1 x 4 or 2 x 2); pass grid=(h, w)"
    ):
        find_grid(4, 7, 16)


def test_rounding_does_not_carry_a_weight_out_of_its_range():
    """Three patches over five pixels: their fractions add up to a little more than one."""
    full = cutmix(torch.zeros(1, 3, 5, 1), torch.tensor([0]), (0, 0, 5, 1))
    attention = torch.tensor([[12.5399, 0.2529, 1.3782]])
    lam = attention_labels(full, attention, grid=(3, 1), weight=1.0, downsample="fraction").lam
    assert (1 - patches_by_fraction(full.mask[0].numpy(), 3, 1) == 0).all()
    assert 0 <= lam.item() < 1e-6


def test_the_grid_of_a_non_square_image_is_found_by_the_rule():
    mixed = cutmix(torch.zeros(3, 3, 16, 24), torch.tensor([0, 1, 2]), (0, 0, 8, 8))
    attention = torch.zeros(3, 6)
    attention[:, 0] = 1  # the patch under the box
    assert torch.allclose(attention_labels(mixed, attention).lam, mixed.lam_area / 2)
    assert torch.equal(attention_labels(mixed, attention).lam, attention_labels(mixed, attention, grid=(2, 3)).lam)


MIXED = cutmix(torch.zeros(3, 3, 16, 24), torch.tensor([0, 1, 2]), (0, 0, 8, 8))
REFUSED = {
    "weight above 1": ({"weight": 1.1}, "weight is the share of attention in [0, 1], not 1.1"),
    "weight below 0": ({"weight": -0.1}, "weight is the share of attention in [0, 1], not -0.1"),
    "weight nan": ({"weight": math.nan}, "weight is the share of attention in [0, 1], not nan"),
    "downsample": ({"downsample": "bicubic"}, "downsample must be one of nearest, fraction, not 'bicubic'"),
    "grid": ({"grid": (3, 3)}, "a grid of 3 x 3 has 9 patches, but attention has 6"),
    "another batch": ({"attention": torch.ones(2, 6)}, "attention must be (3, P), not (2, 6)"),
    "heads left in": ({"attention": torch.ones(3, 2, 6)}, "attention must be (3, P), not (3, 2, 6)"),
    "a class token left in": (
        {"attention": torch.ones(3, 7)},
        "7 patches do not make one grid over a 16 x 24 image; pass grid=(h, w)",
    ),
}


@pytest.mark.parametrize(("change", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(change, text, says):
    settings = {"attention": torch.ones(3, 6), **change}
    with says(ValueError, text):
        attention_labels(MIXED, **settings)
