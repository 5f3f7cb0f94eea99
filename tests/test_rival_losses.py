"""SMMix's two losses, and cross-entropy with two weights, against numbers of the authors' code; and wrong losses."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from transmix import Mixed, MixedCrossEntropy, cutmix, mixup
from transmix.labels import semantic_labels
from transmix.losses import consistency_loss, token_losses

TEXT = gzip.decompress(Path(__file__).with_name("rival_cases.json.gz").read_bytes()).decode()
CASES = json.loads(TEXT.replace('"nan"', "NaN"))["methods"]
every_smmix = pytest.mark.parametrize("case", CASES["smmix"], ids=[case["id"] for case in CASES["smmix"]])


def numbers(values):
    return torch.tensor(values, dtype=torch.float32)


def agrees(got, want):
    want = torch.as_tensor(want)
    return bool(((got.detach() - want).abs() <= 1e-6 * want.abs().clamp(min=1)).all())


class Head:
    """A linear head that keeps what it returned."""

    def __init__(self, given, name):
        self.weight, self.bias = numbers(given[f"{name}_weight"]), numbers(given[f"{name}_bias"])

    def __call__(self, tokens):
        self.logits = F.linear(tokens, self.weight, self.bias)
        return self.logits


def smmix_batch(case, down=2, across=3):
    """The mixed batch, with patches of `down` x `across` pixels: H != W."""
    given, expected, side = case["inputs"], case["expected"], case["params"]["side"]
    mask = torch.tensor([[[bit == "1" for bit in row] for row in rows] for rows in expected["mask_patches"]])
    mask = mask.repeat_interleave(down, 1).repeat_interleave(across, 2)
    labels, partner = torch.tensor(given["labels"]), torch.tensor(given["partner"])
    lam = torch.full((len(labels),), expected["lam"])
    box, source = (
        torch.tensor([[y, x, y + case["params"]["region"], x + case["params"]["region"]] for y, x in expected[name]])
        * torch.tensor([down, across, down, across])
        for name in ("paste_at_yx", "taken_from_yx")
    )
    images = torch.zeros(len(labels), 1, side * down, side * across)
    return Mixed(images, labels, partner, lam, lam, mask, box=box, source_box=source)


def smmix_losses(case, tokens=token_losses, consistency=consistency_loss):
    """Name -> ours, official."""
    given, expected, params = case["inputs"], case["expected"], case["params"]
    mixed, logits, smoothing = smmix_batch(case), numbers(given["logits"]), params["smoothing"]
    heads = Head(given, "token_head"), Head(given, "head")
    grid = (params["side"],) * 2
    fine, shared = (tokens(numbers(given["tokens"]), mixed, head, smoothing, grid=grid) for head in heads)
    loss = MixedCrossEntropy(smoothing)(logits, mixed)
    consistent = consistency(logits, numbers(given["logits_unmixed"]), mixed)
    own, theirs = heads[0].logits.chunk(2)
    return {
        "target": (mixed.targets(params["num_classes"], smoothing), numbers(expected["target"])),
        "own_logits": (own, numbers(expected["own_logits"])),
        "partner_logits": (theirs, numbers(expected["partner_logits"])),
        "loss_class": (loss, expected["loss_class"]),
        "loss_fine": (fine, expected["loss_fine"]),
        "loss_fine_shared_head": (shared, expected["loss_fine_shared_head"]),
        "loss_consistency": (consistent, expected["loss_consistency"]),
        "loss": (loss + fine + consistent, expected["loss"]),
    }


@every_smmix
def test_smmix_losses_are_the_authors(case):
    assert len(CASES["smmix"]) == 7
    assert [name for name, (got, want) in smmix_losses(case).items() if not agrees(got, want)] == []


def regions_swapped(tokens, mixed, head, smoothing, grid):
    return token_losses(tokens, replace(mixed, mask=~mixed.mask), head, smoothing, grid=grid)


def labels_swapped(tokens, mixed, head, smoothing, grid):
    return token_losses(tokens, replace(mixed, labels=mixed.of_partner(mixed.labels)), head, smoothing, grid=grid)


def taken_instead_of_pasted(tokens, mixed, head, smoothing, grid):
    mask = torch.zeros_like(mixed.mask)
    for row, (top, left, bottom, right) in enumerate(mixed.source_box.tolist()):
        mask[row, top:bottom, left:right] = True
    return token_losses(tokens, replace(mixed, mask=mask), head, smoothing, grid=grid)


def summed(*args, **settings):
    return 2 * token_losses(*args, **settings)


def transposed(tokens, mixed, head, smoothing, grid):
    turned = F.interpolate(mixed.mask[None].float().transpose(2, 3), size=mixed.mask.shape[1:])[0]
    return token_losses(tokens, replace(mixed, mask=turned.bool()), head, smoothing, grid=grid)


def probabilities_mixed(logits, clean, mixed):
    lam = mixed.lam[:, None]
    p = lam * clean.softmax(1) + (1 - lam) * clean.softmax(1)[mixed.partner]
    return (p * (p.log() - logits.log_softmax(1))).sum(1).mean()


def lam_turned(logits, clean, mixed):
    return consistency_loss(logits, clean, replace(mixed, lam=1 - mixed.lam))


def divergence_turned(logits, clean, mixed):
    log_p = (mixed.lam[:, None] * clean + (1 - mixed.lam[:, None]) * clean[mixed.partner]).log_softmax(1)
    return (logits.softmax(1) * (logits.log_softmax(1) - log_p)).sum(1).mean()


@pytest.mark.parametrize(
    "wrong", [regions_swapped, labels_swapped, taken_instead_of_pasted, summed, transposed], ids=lambda f: f.__name__
)
def test_wrong_token_losses_are_rejected(wrong):
    rejected = [not agrees(*smmix_losses(case, tokens=wrong)["loss_fine"]) for case in CASES["smmix"]]
    assert sum(rejected) >= 4


@pytest.mark.parametrize("wrong", [probabilities_mixed, lam_turned, divergence_turned], ids=lambda f: f.__name__)
def test_wrong_consistency_is_rejected(wrong):
    rejected = [not agrees(*smmix_losses(case, consistency=wrong)["loss_consistency"]) for case in CASES["smmix"]]
    assert sum(rejected) >= 6


# ----------------------------------------------------------------------------- two weights that need not sum to 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES["snapmix"], ids=[case["id"] for case in CASES["snapmix"]])
def test_snapmix_weights_count_each_cross_entropy_and_equal_labels_once(case, smoothing):
    """Mean of w_own * CE(own) + w_partner * CE(partner) by the authors' weights; a row of one class once."""
    given, expected, classes = case["inputs"], case["expected"], case["params"]["num_classes"]
    batch, size = len(given["labels"]), case["params"]["size"]
    box, source = (torch.tensor(given[f"{name}_box_yxyx"]).expand(batch, 4) for name in ("own", "partner"))
    labels, partner = torch.tensor(given["labels"]), torch.tensor(given["partner"])
    lam = torch.full((batch,), expected["lam_area"])
    mask = torch.zeros(batch, size, size, dtype=torch.bool)
    mask[:, box[0, 0] : box[0, 2], box[0, 1] : box[0, 3]] = True
    places = {"box": box, "source_box": source, "interpolation": "bilinear"}
    mixed = Mixed(torch.zeros(batch, 1, size, size), labels, partner, lam, lam, mask, **places)
    labelled = semantic_labels(mixed, numbers(given["cam"]).flatten(1), grid=(case["params"]["map_size"],) * 2)
    logits = torch.randn(batch, classes, generator=torch.Generator().manual_seed(3))
    own, theirs = (
        F.cross_entropy(logits, one, reduction="none", label_smoothing=smoothing) for one in (labels, labels[partner])
    )
    published = numbers(expected["weight_own"]) * own + numbers(expected["weight_partner"]) * theirs
    once = torch.where(torch.tensor(given["same_label"]), published / 2, published)
    got = MixedCrossEntropy(smoothing, "none")(logits, labelled)
    assert torch.allclose(got, once, atol=3e-6)
    if any(given["same_label"]):
        assert not torch.allclose(got, published, atol=1e-2)


# ------------------------------------------------------------------------------------------------- the laws


def a_batch(boxes, size=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 6, 8, generator=rng)
    mixed = cutmix(images, torch.arange(size) % 4, boxes)
    return torch.randn(size, 12, 5, generator=rng), mixed


def a_head(seed=0):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 5, generator=rng)
    return lambda tokens: tokens @ weight.to(tokens.dtype).T


def by_loops(tokens, mixed, head, smoothing):
    """Row by row in float64, for a grid of 3 x 4 patches of 2 x 2 pixels; rows that have no such patch left out."""
    parts = [[], []]
    for row in range(len(tokens)):
        mask = mixed.mask.expand(len(tokens), -1, -1)[row].double()
        if not mask.any():
            continue
        pasted = mask.reshape(3, 2, 4, 2).mean((1, 3)).reshape(-1)
        for part, shares, label in ((0, 1 - pasted, row), (1, pasted, int(mixed.partner[row]))):
            if shares.sum() and mixed.labels[label] != -100:
                mean = (shares[:, None] * tokens[row].double()).sum(0) / shares.sum()
                logits = head(mean[None])
                one = F.cross_entropy(logits, mixed.labels[label, None], label_smoothing=smoothing)
                parts[part].append(float(one))
    return sum(sum(part) / len(part) / 2 for part in parts if part)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 6), st.integers(0, 8)] * 2), min_size=1, max_size=5), st.data())
def test_token_losses_equal_loops_over_rows(corners, data):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    tokens, mixed = a_batch(boxes, len(boxes))
    mixed = replace(mixed, partner=torch.tensor(data.draw(st.permutations(range(len(boxes))))))
    if data.draw(st.booleans()):
        mixed = replace(mixed, labels=mixed.labels.index_fill(0, torch.tensor([0]), -100))
    for smoothing in (0.0, 0.2):
        got = float(token_losses(tokens, mixed, a_head(), smoothing, grid=(3, 4)))
        assert got == pytest.approx(by_loops(tokens, mixed, a_head(), smoothing), abs=2e-6)


def test_rows_without_a_mask_have_no_token_losses_but_run_the_head():
    tokens, mixed = a_batch((0, 0, 0, 0))
    blended = mixup(mixed.images, mixed.labels, 0.3)
    for one in (mixed, blended, replace(blended, partner=None)):
        given = tokens.clone().requires_grad_()
        head = nn.Linear(5, 4)
        loss = token_losses(given, one, head)
        loss.backward()
        assert float(loss.detach()) == 0
        assert float(given.grad.abs().sum()) == 0
        assert head.weight.grad is not None  # processes under DDP that draw otherwise wait for it


def test_a_row_pasted_over_whole_has_no_patch_of_its_own_whatever_the_rounding():
    rng = torch.Generator().manual_seed(0)
    mixed = cutmix(torch.rand(2, 1, 7, 11, generator=rng), torch.arange(2), (0, 0, 7, 11))
    tokens, head = torch.randn(2, 6, 5, generator=rng), a_head()
    theirs = F.cross_entropy(head(tokens.mean(1)), mixed.labels.flip(0)) / 2
    assert agrees(token_losses(tokens, mixed, head, grid=(3, 2)), theirs)


def test_token_losses_of_float_labels_and_of_the_gradient():
    tokens, mixed = a_batch([(0, 0, 2, 4), (0, 0, 6, 8), (1, 1, 4, 7)])
    dense = replace(mixed, labels=F.one_hot(mixed.labels, 4).float())
    loss = token_losses(tokens.requires_grad_(), mixed, a_head(), 0.1)
    assert agrees(token_losses(tokens, dense, a_head(), 0.1), loss.detach())
    loss.backward()
    assert tokens.grad.isfinite().all()
    assert bool(tokens.grad.abs().sum((1, 2)).all())


def test_losses_are_summed_in_float32_under_autocast():
    tokens, mixed = a_batch([(0, 0, 2, 4), (0, 0, 6, 7), (1, 1, 4, 7)])
    low = tokens.bfloat16()
    seen = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_losses(low, mixed, lambda means: seen.append(means) or a_head()(means))
        logits = (torch.randn(3, 4) * 20).bfloat16()
        kl = consistency_loss(logits, logits.flip(1), mixed)
    assert (loss.dtype, kl.dtype, seen[0].dtype) == (torch.float32, torch.float32, torch.bfloat16)
    exact = []
    token_losses(low.double(), mixed, lambda means: exact.append(means) or a_head()(means))
    assert torch.equal(seen[0], exact[0].bfloat16())
    assert agrees(kl, consistency_loss(logits.double(), logits.double().flip(1), mixed).float())


def test_consistency_is_0_for_the_mixture_itself_and_takes_gradient_for_the_prediction_alone():
    _, mixed = a_batch([(0, 0, 2, 4), (0, 0, 0, 0), (1, 1, 4, 7)])
    clean = torch.randn(3, 4, requires_grad=True)
    mixture = mixed.lam[:, None] * clean + (1 - mixed.lam[:, None]) * clean[mixed.partner]
    same = mixture.detach().requires_grad_()
    assert float(consistency_loss(same, clean, mixed).detach()) == pytest.approx(0, abs=1e-6)
    other = torch.randn(3, 4, requires_grad=True)
    consistency_loss(other, clean, mixed).backward()
    assert clean.grad is None
    assert torch.allclose(other.grad, (other.softmax(1) - mixture.softmax(1)).detach() / 3, atol=1e-6)
    two = replace(mixed, lam_partner=1 - mixed.lam)
    assert agrees(consistency_loss(other, clean, two), consistency_loss(other, clean, mixed).detach())
    heavier = replace(mixed, lam_partner=2 - mixed.lam)
    assert not agrees(consistency_loss(other, clean, heavier), consistency_loss(other, clean, mixed).detach())


TOKENS, MIXED = a_batch((0, 0, 2, 4))
ELSEWHERE = replace(MIXED, partner=None)
LOGITS = torch.zeros(3, 4)
REFUSED = {
    "tokens of logits": (lambda: token_losses(LOGITS, MIXED, a_head()), "tokens must be (3, P, D), not (3, 4)"),
    "tokens of another batch": (
        lambda: token_losses(TOKENS[:2], MIXED, a_head()),
        "tokens must be (3, P, D), not (2, 12, 5)",
    ),
    "tokens with the class token": (
        lambda: token_losses(TOKENS, MIXED, a_head(), grid=(3, 3)),
        "a grid of 3 x 3 has 9 patches, but tokens has 12",
    ),
    "smoothing": (lambda: token_losses(TOKENS, MIXED, a_head(), 1.0), "smoothing must lie in [0, 1), not 1.0"),
    "partners elsewhere": (
        lambda: token_losses(TOKENS, ELSEWHERE, a_head()),
        "the partners of these images are no rows of this batch, so what they have is not here",
    ),
    "consistency, partners elsewhere": (
        lambda: consistency_loss(LOGITS, LOGITS, ELSEWHERE),
        "the partners of these images are no rows of this batch, so what they have is not here",
    ),
    "logits of another batch": (
        lambda: consistency_loss(LOGITS[:2], LOGITS, MIXED),
        "logits must be (3, K), not (2, 4)",
    ),
    "clean logits of other classes": (
        lambda: consistency_loss(LOGITS, LOGITS[:, :3], MIXED),
        "clean_logits must be (3, 4), as logits, not (3, 3)",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        call()
    assert str(error.value) == text
