"""Laws that every label rule of the table keeps, wrong rules that they reject, and rules in slow loops."""

import math
import random
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix import Draw, cutmix, mixup
from transmix.attention import Attention
from transmix.labels import (
    RULES,
    CentreLabels,
    Evidence,
    LineLabels,
    ObjectLabels,
    ProgressiveLabels,
    RolloutMaps,
    SourceLabels,
    object_labels,
    progressive_labels,
    rollout_labels,
    semantic_labels,
    source_labels,
)
from transmix.labels.semantic import semantic_map

GRID, SIZE, CLASSES = (3, 4), (12, 20), 6


def evidence_for(batch, seed=0):
    """Everything that a rule may ask for."""
    rng = torch.Generator().manual_seed(seed)
    row, clean = (torch.rand(batch, math.prod(GRID), generator=rng) for _ in range(2))
    return Evidence(
        Attention(row, GRID, SIZE),
        torch.randn(batch, CLASSES, generator=rng),
        torch.rand(batch, 2, 3, 13, 13, generator=rng).softmax(-1),
        Attention(clean, GRID, SIZE),
        torch.rand(batch, *SIZE, generator=rng) > 0.5,
        RolloutMaps(torch.randn(batch, 2, 3, 14, 14, generator=rng).mul(3).softmax(-1), GRID, SIZE),  # two before
    )


def even_evidence(batch):
    """Everything that a rule may ask for, alike everywhere."""
    flat = Attention(torch.full((batch, math.prod(GRID)), 0.4), GRID, SIZE)
    logits, foreground = torch.zeros(batch, CLASSES), torch.ones(batch, *SIZE, dtype=torch.bool)
    rollout = RolloutMaps(torch.full((batch, 2, 3, 13, 13), 1 / 13), GRID, SIZE)
    return Evidence(flat, logits, None, flat, foreground, rollout)


@dataclass(frozen=True)
class Ramp:
    """A mask of another shape, bool or soft."""

    first: int
    soft: bool

    def mask(self, height, width):
        across = (torch.arange(width) - self.first).clamp(0, 4).expand(height, width) / 4
        return across if self.soft else across > 0.5


@st.composite
def batches(draw):
    """Rows with boxes, in place or from elsewhere, other shapes, empty boxes, blends and unmixed rows."""
    size, soft = draw(st.integers(2, 6)), draw(st.booleans())
    lam, boxes, sources, shapes = [], [], [], []
    for _ in range(size):
        kind = draw(st.sampled_from(["box", "moved", "shape", "empty", "blend", "unmixed"]))
        shape = Ramp(draw(st.integers(0, 18)), soft) if kind == "shape" else None
        box = {"box": draw(some_boxes), "moved": draw(some_boxes), "empty": (0, 0, 0, 0)}.get(kind)
        left = 1 - float(shape.mask(*SIZE).float().mean()) if shape else 1 - area(box) / 240 if box else 1.0
        lam.append(draw(st.floats(0, 1, width=32)) if kind == "blend" else left)
        boxes.append(box)
        sources.append(draw(some_boxes) if kind == "moved" else None)
        shapes.append(shape)
    images = torch.rand(size, 1, *SIZE, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    partner = tuple(draw(st.permutations(range(size))))
    drawn = Draw(*SIZE, partner, tuple(lam), tuple(boxes), tuple(sources), tuple(shapes))
    return drawn.apply(images, torch.arange(size) % CLASSES)


some_boxes = st.builds(
    lambda top, left, down, right: (top, left, min(top + down, 12), min(left + right, 20)),
    *(st.integers(0, 11), st.integers(0, 19), st.integers(1, 12), st.integers(1, 20)),
)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def partners_weight(mixed):
    return 1 - mixed.lam if mixed.lam_partner is None else mixed.lam_partner


def law_weights(rule, mixed, evidence):
    """The weights are in 0..1; rows without a mask keep what mixing gave them; nothing else changes."""
    done = rule(mixed, evidence)
    empty = torch.ones(len(done.lam), dtype=torch.bool) if mixed.mask is None else ~mixed.mask.flatten(1).any(1)
    empty = empty.expand(len(done.lam))
    for weight, before in ((done.lam, mixed.lam_area), (partners_weight(done), 1 - mixed.lam_area)):
        assert weight.dtype == torch.float32
        assert weight.shape == done.lam.shape
        assert ((weight >= 0) & (weight <= 1)).all()
        assert torch.equal(weight[empty], before[empty])
    for name in ("images", "labels", "partner", "lam_area", "mask"):
        assert getattr(done, name) is getattr(mixed, name)


def law_twice(rule, mixed, evidence):
    """Twice is once: a rule computes from the area and the mask, not from what a rule made."""
    once = rule(mixed, evidence)
    twice = rule(once, evidence)
    assert torch.equal(twice.lam, once.lam)
    assert torch.equal(partners_weight(twice), partners_weight(once))


def law_permuted(rule, mixed, evidence):
    """A row's label depends on its own row alone, whatever the order."""
    order = torch.arange(len(mixed.lam)).flip(0)
    turned = replace(
        mixed,
        images=mixed.images[order],
        labels=mixed.labels[order],
        partner=len(order) - 1 - mixed.partner[order],
        lam=mixed.lam[order],
        lam_area=mixed.lam_area[order],
        mask=mixed.mask if mixed.mask is None or len(mixed.mask) == 1 else mixed.mask[order],
        blend=None if mixed.blend is None else mixed.blend[order],
        box=None if mixed.box is None else mixed.box[order],
        source_box=None if mixed.source_box is None else mixed.source_box[order],
    )
    seen, clean = evidence.attention, evidence.clean
    other = Evidence(
        seen._replace(row=seen.row[order]),
        evidence.logits[order],
        evidence.maps[order],
        clean._replace(row=clean.row[order]),
        evidence.foreground[order],
        replace(evidence.rollout, attention=evidence.rollout.attention[order]),
    )
    got, expected = rule(turned, other), rule(mixed, evidence)
    assert torch.allclose(got.lam, expected.lam[order], atol=1e-6)
    assert torch.allclose(partners_weight(got), partners_weight(expected)[order], atol=1e-6)


def law_pure(rule, mixed, evidence):
    """No input changes, no gradient flows, no random number is drawn; sums are float32 under autocast."""
    tensors = [evidence.attention.row, evidence.logits, evidence.clean.row, evidence.rollout.attention]
    before = [tensor.clone() for tensor in tensors]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with torch.enable_grad():
        done = rule(mixed, evidence)
        for tensor in tensors:
            tensor.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            again = rule(mixed, evidence)
    for one, other in ((done.lam, again.lam), (partners_weight(done), partners_weight(again))):
        assert torch.equal(one, other)
        assert not other.requires_grad
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002


LAWS = [law_weights, law_twice, law_permuted, law_pure]


OTHER_ROWS = ("control",)
"""Null rules that give a row what belongs to another."""


@pytest.mark.parametrize(
    ("name", "law"),
    [(name, law) for name in RULES for law in LAWS if law is not law_permuted or name not in OTHER_ROWS],
)
def test_every_rule_keeps_every_law(name, law):
    @settings(max_examples=40, deadline=None)
    @given(batches())
    def holds(mixed):
        law(RULES[name](), mixed, evidence_for(len(mixed.lam)))

    holds()


@dataclass(frozen=True)
class BatchMean:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=mixed.lam_area.mean().expand(len(mixed.lam)))


@dataclass(frozen=True)
class FromLam:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=mixed.lam**2)


@dataclass(frozen=True)
class NextRow:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=mixed.lam_area.roll(1))


@dataclass(frozen=True)
class WithGradient:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=evidence.attention.row.softmax(1)[:, 0])


@dataclass(frozen=True)
class OfNoise:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=mixed.lam_area + 0 * torch.rand(()))


@dataclass(frozen=True)
class InHalf:
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        row = evidence.attention.row.detach()
        return replace(mixed, lam=(row @ row.T)[0].float())


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (BatchMean, law_weights),
        (FromLam, law_twice),
        (NextRow, law_permuted),
        (WithGradient, law_pure),
        (OfNoise, law_pure),
        (InHalf, law_pure),
    ],
)
def test_wrong_rules_break_a_law(wrong, law):
    images = torch.rand(4, 1, *SIZE)
    boxes = [(0, 0, 6, 10), (0, 0, 0, 0), (0, 0, 12, 10), (3, 3, 9, 19)]
    mixed = cutmix(images, torch.arange(4), boxes)
    with pytest.raises(AssertionError):
        law(wrong(), mixed, evidence_for(4))


@pytest.mark.parametrize("name", RULES)
def test_blended_batches_keep_their_label(name):
    mixed = mixup(torch.rand(3, 1, *SIZE), torch.arange(3), 0.3)
    done = RULES[name]()(mixed, evidence_for(3))
    assert torch.equal(done.lam, mixed.lam)
    assert torch.equal(partners_weight(done), 1 - mixed.lam)


NULL = ("line", "centre")
"""Rules with an opinion of their own, whatever the evidence."""


@pytest.mark.parametrize("name", [name for name in RULES if name not in NULL + OTHER_ROWS])
def test_evidence_alike_everywhere_gives_the_area_and_a_full_mask_the_partners_label(name):
    boxes = [(0, 0, 8, 15), (4, 5, 12, 20), (0, 0, 0, 0), (0, 0, 12, 20), (4, 5, 8, 10)]
    mixed = cutmix(torch.rand(5, 1, *SIZE), torch.arange(5), boxes)
    done = RULES[name]()(mixed, even_evidence(5))
    assert done.rule == name
    assert torch.allclose(done.lam, mixed.lam_area, atol=1e-6)
    assert torch.allclose(partners_weight(done), 1 - mixed.lam_area, atol=1e-6)
    uneven = RULES[name]()(mixed, evidence_for(5))
    assert float(uneven.lam[3]) == pytest.approx(0, abs=1e-6)
    assert float(partners_weight(uneven)[3]) == pytest.approx(1, abs=1e-6)
    assert name == "area" or not torch.allclose(uneven.lam, mixed.lam_area, atol=1e-3)  # the law can fail


def test_what_a_rule_needs_it_gets_and_no_more():
    for name, rule in RULES.items():
        needed = {kind: value for kind, value in vars(evidence_for(3)).items() if kind in rule.needs}
        mixed = cutmix(torch.rand(3, 1, *SIZE), torch.arange(3), (0, 0, 6, 10))
        assert rule()(mixed, Evidence(**needed)).rule == name


def test_the_line_is_a_line():
    mixed = cutmix(torch.rand(2, 1, *SIZE), torch.arange(2), [(0, 0, 6, 10), (0, 0, 12, 15)])
    assert LineLabels(0.6)(mixed, Evidence()).lam.tolist() == pytest.approx([0.5 + 0.6 * 0.25, 0.5 - 0.6 * 0.25])
    assert torch.allclose(LineLabels(1.0)(mixed, Evidence()).lam, mixed.lam_area)
    with pytest.raises(ValueError, match=r"slope must lie in \[0, 1\], not 1.5"):
        LineLabels(1.5)


@pytest.mark.parametrize("sigma", [0.1, 0.28, 2.0])
def test_the_centres_prior_is_a_gaussian_pixel_by_pixel(sigma):
    box = (2, 5, 9, 13)
    mixed = cutmix(torch.rand(1, 1, *SIZE), torch.arange(1), box, torch.tensor([0]))
    inside = whole = 0.0
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            down, across = (y + 0.5) / SIZE[0] - 0.5, (x + 0.5) / SIZE[1] - 0.5
            weight = math.exp(-(down**2 + across**2) / (2 * sigma**2))
            whole += weight
            inside += weight * (box[0] <= y < box[2] and box[1] <= x < box[3])
    labelled = CentreLabels(weight=0.5, sigma=sigma)(mixed, Evidence())
    assert float(labelled.lam_evidence) == pytest.approx(1 - inside / whole, abs=1e-6)
    assert float(labelled.lam) == pytest.approx((1 - inside / whole + float(mixed.lam_area)) / 2, abs=1e-6)
    for wrong in ({"sigma": 0}, {"weight": -0.1}):
        with pytest.raises(ValueError, match=r"must be above 0|share of the prior"):
            CentreLabels(**wrong)


@given(batches())
@settings(max_examples=40, deadline=None)
def test_the_control_gives_each_row_the_deviation_of_the_next_by_area(mixed):
    evidence = evidence_for(len(mixed.lam))
    labelled, by_object = (RULES[name]()(mixed, evidence).lam.tolist() for name in ("control", "object"))
    area = mixed.lam_area.tolist()
    if mixed.mask is None:
        assert labelled == area
        return
    masked = [row for row, mask in enumerate(mixed.mask.expand(len(area), -1, -1)) if mask.any()]
    queue = sorted(masked, key=lambda row: area[row])  # stable, as the rule's
    for row, giver in zip(queue, queue[1:] + queue[:1], strict=True):
        deviation = by_object[giver] - area[giver] if len(queue) > 1 else 0
        assert labelled[row] == pytest.approx(min(max(area[row] + deviation, 0), 1), abs=1e-5)


def test_the_control_spreads_as_the_objects_do_and_knows_nothing_of_them():
    rng = torch.Generator().manual_seed(0)
    images, foreground = torch.rand(400, 1, *SIZE, generator=rng), torch.rand(400, *SIZE, generator=rng) > 0.8
    foreground[:, :, :10] &= (torch.rand(400, generator=rng) > 0.5)[:, None, None]  # half have the object at the right
    mixed = cutmix(images, torch.arange(400), (0, 0, 8, 12), torch.randperm(400, generator=rng))
    area, control, by_object = (
        RULES[name]()(mixed, Evidence(foreground=foreground)).lam.double() for name in ("area", "control", "object")
    )
    assert control.sort().values.tolist() == pytest.approx(by_object.sort().values.tolist(), abs=1e-6)
    deviations = torch.stack([control - area, by_object - area])
    assert abs(float(torch.corrcoef(deviations)[0, 1])) < 0.15
    assert float(by_object.std()) > 0.1


# --------------------------------------------------------------------------- rules in slow loops, row by row


def fractions_of(mask):
    """(h * w,) of (H, W): the mean of each patch, which is 4 x 5 pixels."""
    return mask.reshape(3, 4, 4, 5).mean((1, 3)).reshape(-1)


def arrays(mixed):
    """For each row: its mask and the mask of the partner's pixels in the partner, (H, W) float64; and the partner."""
    masks = mixed.mask.expand(len(mixed.lam), -1, -1).double().numpy()
    for row, (mask, partner) in enumerate(zip(masks, mixed.partner.tolist(), strict=True)):
        taken = mask
        if mixed.source_box is not None and area(mixed.box[row].tolist()):
            top, left, bottom, right = mixed.source_box[row].tolist()
            taken = np.zeros(SIZE)
            taken[top:bottom, left:right] = 1
        yield row, mask, taken, partner


def by_source(mixed, evidence):
    weights = {}
    maps = evidence.clean.row.double().numpy()
    for row, mask, taken, partner in arrays(mixed):
        own = (maps[row] * (1 - fractions_of(mask))).sum() / maps[row].sum()
        theirs = (maps[partner] * fractions_of(taken)).sum() / maps[partner].sum()
        weights[row] = own, theirs
    return weights


def by_object(mixed, evidence, by):
    weights, objects = {}, evidence.foreground.numpy().astype(float)
    moved = mixed.pasted(evidence.foreground).numpy().astype(float)
    for row, mask, taken, partner in arrays(mixed):
        own, theirs = (objects[row] * (1 - mask)).sum(), (moved[row] * mask).sum()
        if by == "object":
            own, theirs = own / objects[row].sum(), (objects[partner] * taken).sum() / objects[partner].sum()
        weights[row] = own, theirs
    return weights


def by_semantic(mixed, evidence):
    weights = {}
    maps = semantic_map(evidence.clean.row, GRID, SIZE).double().numpy()
    for row, mask, taken, partner in arrays(mixed):
        weights[row] = 1 - (maps[row] * mask).sum(), (maps[partner] * taken).sum()
    return weights


SLOW = {
    "source": (source_labels, {"sum_to_one": False}, by_source, "clean"),
    "source, sum to one": (source_labels, {}, by_source, "clean"),
    "semantic": (semantic_labels, {}, by_semantic, "clean"),
    "object": (object_labels, {}, lambda *both: by_object(*both, "object"), "foreground"),
    "pixels": (object_labels, {"by": "pixels"}, lambda *both: by_object(*both, "pixels"), "foreground"),
}


@pytest.mark.parametrize("name", SLOW)
def test_rules_of_clean_images_equal_slow_loops_wherever_the_partners_pixels_come_from(name):
    rule, settings_of_rule, slow, kind = SLOW[name]

    @settings(max_examples=40, deadline=None)
    @given(batches())
    def equals(mixed):
        evidence = evidence_for(len(mixed.lam))
        given = evidence.foreground if kind == "foreground" else evidence.clean.row
        options = settings_of_rule if kind == "foreground" else settings_of_rule | {"grid": GRID}
        done = rule(mixed, given, **options)
        if mixed.mask is None:
            return
        for row, (own, theirs) in slow(mixed, evidence).items():
            if not mixed.mask.expand(len(mixed.lam), -1, -1)[row].any() or own + theirs == 0:
                continue
            want = (own, theirs) if done.lam_partner is not None else (own / (own + theirs), theirs / (own + theirs))
            got = float(done.lam[row]), float(partners_weight(done)[row])
            assert got == pytest.approx(want, abs=2e-6)

    equals()


def a_batch(boxes=(0, 0, 8, 10), **fields):
    return replace(cutmix(torch.rand(3, 1, *SIZE), torch.arange(3), boxes), **fields)


def test_the_partners_object_counts_as_a_whole_where_it_is_pasted_whole_but_small():
    """ResizeMix: by object all of it is seen, by pixels a quarter of its pixels."""
    whole, small = torch.tensor([[0, 0, *SIZE]]).expand(3, 4), torch.tensor([[0, 0, 6, 10]]).expand(3, 4)
    mixed = a_batch((0, 0, 6, 10), box=small, source_box=whole)
    foreground = torch.ones(3, *SIZE, dtype=torch.bool)
    assert object_labels(mixed, foreground).lam.tolist() == pytest.approx([0.75 / 1.75] * 3)
    assert object_labels(mixed, foreground, by="pixels").lam.tolist() == pytest.approx([0.75] * 3)


def test_where_nothing_is_to_be_seen_the_area_decides():
    mixed = a_batch()
    nothing = torch.zeros(3, *SIZE, dtype=torch.bool)
    for by in ("object", "pixels", 0.3):
        assert torch.equal(object_labels(mixed, nothing, by=by).lam, mixed.lam_area)
    maps = torch.zeros(3, 12)
    for sum_to_one in (True, False):
        done = source_labels(mixed, maps, grid=GRID, sum_to_one=sum_to_one)
        assert torch.equal(done.lam, mixed.lam_area)
        assert torch.equal(partners_weight(done), 1 - mixed.lam_area)
    done = semantic_labels(mixed, torch.full((3, 12), 0.1), grid=GRID)
    assert torch.equal(done.lam, mixed.lam_area)
    assert torch.equal(done.lam_partner, 1 - mixed.lam_area)
    logits = torch.randn(3, CLASSES)
    assert torch.equal(progressive_labels(mixed, maps, logits, grid=GRID).lam, mixed.lam_area)


def test_a_full_mask_over_patches_that_do_not_divide_the_image_shows_nothing_of_the_own_map():
    """Rounding of the fractions must not make a label where the partner's map is 0."""
    mixed = cutmix(torch.rand(2, 1, 7, 11), torch.arange(2), (0, 0, 7, 11))
    maps = torch.tensor([[1.0] * 6, [0.0] * 6])
    assert source_labels(mixed, maps, grid=(3, 2)).lam.tolist() == [0, 0]  # row 0: no map at all is shown, so by area
    taken = cutmix(torch.rand(2, 1, 7, 11), torch.arange(2), (0, 0, 4, 11))
    assert source_labels(taken, maps, grid=(3, 2)).lam.tolist() == [1, 0]


def test_evidence_that_is_not_finite_does_not_turn_into_a_label():
    mixed = a_batch()
    maps = torch.rand(3, 12).index_fill(0, torch.tensor([1]), math.nan)
    logits = torch.randn(3, CLASSES).index_fill(0, torch.tensor([1]), math.nan)
    for done in (
        source_labels(mixed, maps, grid=GRID),
        semantic_labels(mixed, maps, grid=GRID),
        progressive_labels(mixed, maps, torch.randn(3, CLASSES), grid=GRID),
        progressive_labels(mixed, torch.rand(3, 12), logits, grid=GRID),
    ):
        assert done.lam.isnan()[1]
        assert not done.lam.isnan()[0] or done.rule == "source"


def test_semantic_maps_cover_their_extent_alone():
    maps = torch.arange(12.0).expand(2, 12)
    whole = semantic_map(maps, GRID, SIZE)
    assert torch.allclose(whole.sum((1, 2)), torch.ones(2))
    less = semantic_map(maps, GRID, (14, 21), SIZE)
    assert torch.equal(less[:, :12, :20], whole)
    assert less[:, 12:].sum() + less[:, :, 20:].sum() == 0
    more = semantic_map(maps, GRID, (10, 18), SIZE)
    assert torch.allclose(more, whole[:, :10, :18] / whole[:, :10, :18].sum((1, 2), keepdim=True))


def test_agreement_decides_how_much_attention_counts():
    mixed = a_batch()
    attention = torch.rand(3, 12)
    by_attention = progressive_labels(mixed, attention, torch.zeros(3, CLASSES), grid=GRID).lam_evidence
    labels = mixed.targets(CLASSES)
    agreed = progressive_labels(mixed, attention, labels.log().clamp(min=-100), grid=GRID)
    assert torch.allclose(agreed.lam, by_attention, atol=1e-6)
    against = progressive_labels(mixed, attention, (labels == 0) * 200.0, grid=GRID)
    assert torch.allclose(against.lam, mixed.lam_area, atol=1e-6)
    floats = replace(mixed, labels=torch.eye(3, CLASSES))
    logits = torch.randn(3, CLASSES)
    assert torch.equal(*(progressive_labels(one, attention, logits, grid=GRID).lam for one in (floats, mixed)))
    lost = progressive_labels(replace(mixed, labels=torch.full((3,), -100)), attention, logits, grid=GRID)
    assert torch.equal(lost.lam, mixed.lam_area)  # a label that is not there agrees with nothing


def test_rollout_finds_the_grid_and_leaves_a_label_to_tokens_that_attend_to_themselves():
    mixed = cutmix(torch.rand(3, 1, 12, 16), torch.arange(3), (0, 0, 8, 8))
    alone = torch.eye(13).expand(3, 4, 2, 13, 13)
    assert torch.equal(rollout_labels(mixed, alone).lam, mixed.lam_area)
    looks = torch.zeros(3, 1, 1, 13, 13)
    looks[..., 1] = 1  # all at the first patch, which is the partner's
    assert torch.allclose(rollout_labels(mixed, looks, grid=GRID).lam, mixed.lam_area / 2)
    assert torch.allclose(rollout_labels(mixed, looks.repeat(1, 3, 1, 1, 1)).lam, mixed.lam_area / 8)


MAPS, LOGITS, OBJECTS = torch.rand(3, 12), torch.rand(3, CLASSES), torch.ones(3, *SIZE)
ALONE = {"partner": None}
REFUSED = {
    "attention of another batch": (
        lambda: progressive_labels(a_batch(), MAPS[:2], LOGITS, grid=GRID),
        "attention must be (3, P), not (2, 12)",
    ),
    "logits of another batch": (
        lambda: progressive_labels(a_batch(), MAPS, LOGITS[:2], grid=GRID),
        "logits must be (3, K), not (2, 6)",
    ),
    "one logit": (
        lambda: progressive_labels(a_batch(), MAPS, LOGITS[:, :1], grid=GRID),
        "one logit has a softmax of 1 whatever the model says: progressive labels need two classes",
    ),
    "downsample": (
        lambda: ProgressiveLabels("mean"),
        "downsample must be one of nearest, fraction, not 'mean'",
    ),
    "smoothing": (lambda: ProgressiveLabels(smoothing=1.0), "smoothing must lie in [0, 1), not 1.0"),
    "maps of another grid": (
        lambda: source_labels(a_batch(), MAPS, grid=(3, 5)),
        "a grid of 3 x 5 has 15 patches, but maps has 12",
    ),
    "maps (B, h, w)": (
        lambda: semantic_labels(a_batch(), MAPS.view(3, 3, 4), grid=GRID),
        "maps must be (3, P), not (3, 3, 4)",
    ),
    "one block": (
        lambda: rollout_labels(a_batch(), torch.rand(3, 2, 13, 13), grid=GRID),
        "attention must be (3, blocks, G, N, N), not (3, 2, 13, 13)",
    ),
    "no class token": (
        lambda: rollout_labels(a_batch(), torch.rand(3, 1, 2, 12, 12), grid=GRID),
        "a grid of 3 x 4 has 12 patches, which leaves no class token among 12 tokens",
    ),
    "foreground": (
        lambda: object_labels(a_batch(), OBJECTS[:, :6]),
        "foreground must be (3, 12, 20), not (3, 6, 20)",
    ),
    "by": (
        lambda: ObjectLabels("area"),
        "by must be one of object, pixels, or the share of pixels in [0, 1], not 'area'",
    ),
    "by 2": (lambda: ObjectLabels(2.0), "by must be one of object, pixels, or the share of pixels in [0, 1], not 2.0"),
    "weight": (lambda: ObjectLabels(weight=-1), "weight is the share of the objects in [0, 1], not -1"),
    "partners elsewhere": (
        lambda: source_labels(a_batch(**ALONE), MAPS, grid=GRID),
        "the partners of these images are no rows of this batch, so there are no maps of them",
    ),
    "partners elsewhere, semantic": (
        lambda: semantic_labels(a_batch(**ALONE), MAPS, grid=GRID),
        "the partners of these images are no rows of this batch, so there are no maps of them",
    ),
    "partners elsewhere, object": (
        lambda: object_labels(a_batch(**ALONE), OBJECTS, by="pixels"),
        "the partners of these images are no rows of this batch, so what they have is not here",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        call()
    assert str(error.value) == text


def test_settings_reach_the_rule():
    mixed, evidence = a_batch(), evidence_for(3)
    assert SourceLabels(sum_to_one=False)(mixed, evidence).lam_partner is not None
    assert SourceLabels()(mixed, evidence).lam_partner is None
    assert not torch.equal(*(ObjectLabels(by)(mixed, evidence).lam for by in ("object", "pixels")))
    half = ObjectLabels(weight=0.5)(mixed, evidence)
    assert torch.allclose(half.lam, (half.lam_evidence + mixed.lam_area) / 2)
    askew = a_batch((1, 2, 7, 9))
    for one, other in (({}, {"smoothing": 0.3}), ({}, {"downsample": "fraction"})):
        assert not torch.equal(*(ProgressiveLabels(**by)(askew, evidence).lam for by in (one, other)))
