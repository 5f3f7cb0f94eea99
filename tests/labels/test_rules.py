"""Laws that every label rule of the table keeps, wrong rules that they reject, and the null rules' numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix import Draw, cutmix, mixup
from transmix.attention import Attention
from transmix.labels import RULES, CentreLabels, Evidence, LineLabels

GRID, SIZE = (3, 4), (12, 20)


def evidence_for(batch, seed=0):
    """Everything that a rule may ask for."""
    rng = torch.Generator().manual_seed(seed)
    row, clean = (torch.rand(batch, math.prod(GRID), generator=rng) for _ in range(2))
    return Evidence(
        Attention(row, GRID, SIZE),
        torch.randn(batch, 5, generator=rng),
        torch.rand(batch, 2, 3, 13, 13, generator=rng).softmax(-1),
        Attention(clean, GRID, SIZE),
        torch.rand(batch, *SIZE, generator=rng) > 0.5,
    )


@st.composite
def batches(draw):
    """Rows with boxes, empty ones, blends and unmixed rows."""
    size = draw(st.integers(2, 6))
    rows = []
    for _ in range(size):
        kind = draw(st.sampled_from(["box", "empty", "blend", "unmixed"]))
        top, left = draw(st.integers(0, 11)), draw(st.integers(0, 19))
        box = (top, left, draw(st.integers(top + 1, 12)), draw(st.integers(left + 1, 20))) if kind == "box" else None
        box = (0, 0, 0, 0) if kind == "empty" else box
        lam = {"blend": draw(st.floats(0, 1, width=32)), "unmixed": 1.0, "empty": 1.0}.get(kind)
        rows.append((1 - (box[2] - box[0]) * (box[3] - box[1]) / 240 if lam is None else lam, box))
    images = torch.rand(size, 1, *SIZE, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    partner = tuple(draw(st.permutations(range(size))))
    lam, boxes = zip(*rows, strict=True)
    return Draw(*SIZE, partner, lam, boxes).apply(images, torch.arange(size))


def law_weights(rule, mixed, evidence):
    """The weights are in 0..1; rows without a mask keep what mixing gave them; nothing else changes."""
    done = rule(mixed, evidence)
    assert ((done.lam >= 0) & (done.lam <= 1)).all()
    empty = torch.ones(len(done.lam), dtype=torch.bool) if mixed.mask is None else ~mixed.mask.flatten(1).any(1)
    assert torch.equal(done.lam[empty.expand(len(done.lam))], mixed.lam_area[empty.expand(len(done.lam))])
    for name in ("images", "labels", "partner", "lam_area", "mask"):
        assert getattr(done, name) is getattr(mixed, name)


def law_twice(rule, mixed, evidence):
    """Twice is once: a rule computes from the area and the mask, not from what a rule made."""
    once = rule(mixed, evidence)
    assert torch.equal(rule(once, evidence).lam, once.lam)


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
    )
    seen, clean = evidence.attention, evidence.clean
    other = Evidence(
        seen._replace(row=seen.row[order]),
        evidence.logits[order],
        evidence.maps[order],
        clean._replace(row=clean.row[order]),
        evidence.foreground[order],
    )
    assert torch.allclose(rule(turned, other).lam, rule(mixed, evidence).lam[order], atol=1e-6)


LAWS = [law_weights, law_twice, law_permuted]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("law", LAWS)
def test_every_rule_keeps_every_law(name, law):
    @settings(max_examples=40, deadline=None)
    @given(batches())
    def holds(mixed):
        law(RULES[name](), mixed, evidence_for(len(mixed.lam)))

    holds()


@dataclass(frozen=True)
class Rule:
    weights: Callable
    needs: ClassVar = ()

    def __call__(self, mixed, evidence):
        return replace(mixed, lam=self.weights(mixed))


WRONG = {
    "mean of the batch": (lambda mixed: mixed.lam_area.mean().expand(len(mixed.lam)), law_weights),
    "from lam": (lambda mixed: mixed.lam**2, law_twice),
    "of the next row": (lambda mixed: mixed.lam_area.roll(1), law_permuted),
}


@pytest.mark.parametrize(("wrong", "law"), WRONG.values(), ids=WRONG)
def test_wrong_rules_break_a_law(wrong, law):
    images = torch.rand(4, 1, *SIZE)
    boxes = [(0, 0, 6, 10), (0, 0, 0, 0), (0, 0, 12, 10), (3, 3, 9, 19)]
    mixed = cutmix(images, torch.arange(4), boxes)
    with pytest.raises(AssertionError):
        law(Rule(wrong), mixed, evidence_for(4))


@pytest.mark.parametrize("name", RULES)
def test_blended_batches_keep_their_label(name):
    mixed = mixup(torch.rand(3, 1, *SIZE), torch.arange(3), 0.3)
    assert torch.equal(RULES[name]()(mixed, evidence_for(3)).lam, mixed.lam)


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
