"""TransMix in a loop of three lines."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transmix import AttentionError, MixedCrossEntropy, Mixer, TransMix, attention_labels, cutmix, mixup
from transmix.transmix import label_shift, why_nothing_changes

CLASSES = 4


class TinyAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens):
        query, key, value = self.qkv(tokens)[:, None].chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(query, key, value)[:, 0])


class TinyViT(nn.Module):
    """A ViT of one block, as somebody would write it."""

    def __init__(self, width=24):
        super().__init__()
        self.cut = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.attention = TinyAttention(width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images):
        patches = self.cut(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        tokens = tokens + self.attention(tokens)
        return self.head((tokens + self.mlp(tokens))[:, 0])


def a_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyViT()


def made(seed=0, model=None, **settings):
    settings = {"mixup_alpha": 0, **settings}
    generator = torch.Generator().manual_seed(seed)
    return TransMix(model or a_model(), module="attention", generator=generator, **settings)


def a_batch(size=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, 12, 20, generator=rng), torch.randint(0, CLASSES, (size,), generator=rng)


def coloured_images(size, rng):
    """Four classes: which of three channels is bright, or none. Easy to learn."""
    labels = torch.randint(0, CLASSES, (size,), generator=rng)
    images = torch.rand(size, 3, 12, 20, generator=rng) * 0.3
    for row, label in enumerate(labels.tolist()):
        if label < 3:
            images[row, label] += 1
    return images, labels


def test_a_loop_of_three_lines_trains():
    model, rng = a_model(), torch.Generator().manual_seed(0)
    tm = TransMix(model, smoothing=0.1, module="attention", generator=rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        images, labels = coloured_images(15, rng)

        mixed = tm.mix(images, labels)
        loss = tm.loss(model(mixed.images), mixed)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    images, labels = coloured_images(40, rng)
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.9


def test_it_works_on_a_timm_model():
    timm = pytest.importorskip("timm")
    tiny = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    model = timm.create_model("deit_tiny_patch16_224", img_size=(32, 48), **tiny).train()
    tm = TransMix(model, smoothing=0.1, mixup_alpha=0, generator=torch.Generator().manual_seed(0))
    mixed = tm.mix(torch.rand(3, 3, 32, 48), torch.tensor([0, 1, 2]))
    loss = tm.loss(model(mixed.images), mixed)
    loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    tm.detach()
    assert "forward" not in model.blocks[-1].attn.__dict__


def test_the_grid_is_the_models_where_patches_are_not_square():
    timm = pytest.importorskip("timm")
    tiny = {"patch_size": (4, 16), "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": CLASSES}
    model = timm.create_model("deit_tiny_patch16_224", img_size=(32, 48), **tiny).train()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(20)
    tm = TransMix(model, mixup_alpha=0, weight=1.0, generator=torch.Generator().manual_seed(0))
    mixed = tm.mix(torch.rand(3, 3, 32, 48), torch.tensor([0, 1, 2]))
    model(mixed.images)
    row = tm.reader.attention
    lam = tm.relabel(mixed).lam
    assert torch.equal(lam, attention_labels(mixed, row, grid=(8, 3), weight=1.0).lam)
    assert not torch.allclose(lam, attention_labels(mixed, row, grid=(4, 6), weight=1.0).lam, atol=1e-4)


def assert_loss_is_by_attention(model, tm, batch, weight=0.5, downsample="nearest"):
    """Rows are weighed by the attention of this very forward, seen by an observer of its own."""
    mixed = tm.mix(*batch)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        fused = F.scaled_dot_product_attention
        patch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: (seen.append((q, k)), fused(q, k, v))[1])
        logits = model(mixed.images)
    query, key = seen[0]
    row = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)[:, 0, 0, 1:].detach()
    relabelled = attention_labels(mixed, row, grid=(3, 5), weight=weight, downsample=downsample)
    assert not torch.allclose(relabelled.lam, mixed.lam, atol=1e-4)
    expected = F.cross_entropy(logits, relabelled.targets(CLASSES, 0.1))
    assert torch.allclose(tm.loss(logits, mixed), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"weight": 1.0}, {"downsample": "fraction"}])
def test_the_loss_is_that_of_labels_by_attention(settings):
    model = a_model()
    tm = made(model=model, smoothing=0.1, **settings)
    for seed in range(3):
        assert_loss_is_by_attention(model, tm, a_batch(seed=seed), **settings)


def test_the_loss_of_labels_by_area_is_rejected():
    model = a_model()
    tm = made(model=model, smoothing=0.1)
    tm.relabel = lambda mixed, **_: (tm.reader.take().row, mixed)[1]
    with pytest.raises(AssertionError):
        assert_loss_is_by_attention(model, tm, a_batch())


def test_the_loss_of_the_last_forwards_attention_is_rejected():
    model = a_model()
    tm = made(model=model, smoothing=0.1)
    mixed = tm.mix(*a_batch(seed=7))
    model(mixed.images)
    stale = tm.reader.take().row
    tm.relabel = lambda mixed, **_: attention_labels(mixed, stale, grid=(3, 5))
    with pytest.raises(AssertionError):
        assert_loss_is_by_attention(model, tm, a_batch())


def test_relabelling_first_gives_the_same_loss_once():
    losses = []
    for first in (False, True):
        model = a_model()
        tm = made(model=model, smoothing=0.1)
        mixed = tm.mix(*a_batch())
        logits = model(mixed.images)
        if first:
            mixed = tm.relabel(mixed)
            assert mixed.rule == "attention"
        losses.append(tm.loss(logits, mixed))
        if first:
            assert torch.equal(tm.loss(logits, mixed), losses[-1])  # sees that relabelling is done
            assert torch.equal(MixedCrossEntropy(0.1)(logits, mixed), losses[-1])
    assert torch.equal(*losses)


def test_a_mixup_batch_keeps_its_label_and_takes_its_row():
    model = a_model()
    tm = made(model=model, mixup_alpha=1.0, switch_prob=0.001)
    mixed = tm.mix(*a_batch())
    assert mixed.mask is None
    logits = model(mixed.images)
    assert torch.allclose(tm.loss(logits, mixed), F.cross_entropy(logits, mixed.targets(CLASSES)), atol=1e-6)
    with pytest.raises(AttentionError, match="no attention was recorded"):
        tm.relabel(mixed)


def test_gradients_flow_through_the_logits_alone():
    model = a_model()
    tm = made(model=model)
    mixed = tm.mix(*a_batch())
    logits = model(mixed.images)
    relabelled = tm.relabel(mixed)
    assert not relabelled.lam.requires_grad
    tm.loss(logits, relabelled).backward()
    expected = a_model()
    F.cross_entropy(expected(mixed.images), relabelled.targets(CLASSES)).backward()
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


NO_ROW = "no attention was recorded in 'attention': "
NEVER_RAN = (
    "it has not run since. Call the model that is read, not a copy such as its EMA, on these images first: "
    "logits = model(mixed.images)"
)
TAKEN = (
    "that of these images was taken already. Relabel a batch once, and pass on what that returns: "
    "mixed = tm.relabel(mixed)"
)
MIXED_SINCE = (
    "another batch was mixed since the forward on this one, and mixing drops what came before. Call "
    "mixed = tm.relabel(mixed) right after model(mixed.images)"
)
IN_EVAL_MODE = (
    "it ran in eval mode, in which it is not read. Call model.train() first; if this part is meant to stay in eval "
    "mode (frozen), set tm.reader.eval = True"
)


def assert_no_row(call, why):
    with pytest.raises(AttentionError) as error:
        call()
    assert str(error.value) == NO_ROW + why


def test_a_row_is_used_once():
    model = a_model()
    tm = made(model=model)
    mixed = tm.mix(*a_batch())
    logits = model(mixed.images)
    tm.relabel(mixed)
    assert_no_row(lambda: tm.relabel(mixed), TAKEN)
    assert_no_row(lambda: tm.loss(logits, mixed), TAKEN)


def test_a_stale_row_is_gone_with_the_next_mix():
    model = a_model()
    tm = made(model=model)
    first = tm.mix(*a_batch())
    logits = model(first.images)
    mixed = tm.mix(*a_batch(seed=1))
    assert_no_row(lambda: tm.loss(logits, mixed), NEVER_RAN)
    assert_no_row(lambda: tm.loss(logits, first), MIXED_SINCE)


def test_a_forward_that_never_came_or_was_in_eval_mode_is_an_error():
    model = a_model()
    tm = made(model=model)
    mixed = tm.mix(*a_batch())
    assert_no_row(lambda: tm.relabel(mixed), NEVER_RAN)
    logits = model.eval()(mixed.images)
    assert_no_row(lambda: tm.loss(logits, mixed), IN_EVAL_MODE)


def test_a_row_of_another_batch_size_is_an_error():
    model = a_model()
    tm = made(model=model)
    mixed = tm.mix(*a_batch(3))
    model(a_batch(2)[0])
    with pytest.raises(AttentionError, match="the model saw 2 images, this batch has 3"):
        tm.relabel(mixed)


def test_mixing_is_that_of_the_mixer():
    images, labels = a_batch(5)
    tm, mixer = made(3, mode="elem"), Mixer(0, mode="elem", generator=torch.Generator().manual_seed(3))
    mixed, expected = tm.mix(images, labels), mixer(images, labels)
    assert torch.equal(mixed.images, expected.images)
    assert torch.equal(mixed.lam, expected.lam)


def test_mixing_turned_off_trains_plain_labels():
    model = a_model()
    tm = made(model=model)
    tm.mixer.enabled = False
    images, labels = a_batch()
    mixed = tm.mix(images, labels)
    logits = model(mixed.images)
    assert torch.allclose(tm.loss(logits, mixed), F.cross_entropy(logits, labels))


# -------------------------------------------------------------------------------------------------- refusals

NOTHING = "TransMix would change nothing: "
REFUSED = {
    "weight 0": ({"weight": 0}, NOTHING + "weight 0 leaves the label to the area"),
    "prob 0": ({"prob": 0}, NOTHING + "prob 0 mixes no batch"),
    "no CutMix": (
        {"mixup_alpha": 0.8, "cutmix_alpha": 0},
        NOTHING + "without CutMix (cutmix_alpha 0) no image has a box",
    ),
    "never CutMix": (
        {"mixup_alpha": 0.8, "switch_prob": 0},
        NOTHING + "with switch_prob 0 every mixed batch is Mixup, which has no box",
    ),
    "weight": (
        {"weight": 1.5},
        "weight is the share of attention in [0, 1], not 1.5",
    ),
    "downsample": (
        {"downsample": "area"},
        "downsample must be one of nearest, fraction, not 'area'",
    ),
    "smoothing": ({"smoothing": 1.0}, "smoothing must lie in [0, 1), not 1.0"),
    "mode": ({"mode": "half"}, "mode must be 'batch', 'pair' or 'elem', not 'half'"),
}


@pytest.mark.parametrize(("settings", "text"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_work_are_refused_and_the_model_left_alone(settings, text):
    model = a_model()
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        made(model=model, **settings)
    assert str(error.value) == text
    assert "forward" not in model.attention.__dict__


CHANGING = {
    "default": {},
    "CutMix alone, switch_prob 0": {"mixup_alpha": 0, "switch_prob": 0},
    "minmax without alpha": {"cutmix_alpha": 0, "cutmix_minmax": (0.2, 0.8)},
}


@pytest.mark.parametrize("settings", CHANGING.values(), ids=CHANGING)
def test_settings_under_which_boxes_come_are_accepted(settings):
    mixer = Mixer(**settings, generator=torch.Generator().manual_seed(0))
    assert why_nothing_changes(mixer, 0.5) is None
    assert any(box for _ in range(20) for box in mixer.draw(2, 12, 20).boxes)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'mixupalpha'"):
        TransMix(a_model(), module="attention", mixupalpha=0.8)


def test_a_model_that_cannot_be_read_is_refused():
    with pytest.raises(AttentionError, match="TinyViT is not a model whose class attention is known"):
        TransMix(a_model())


# ------------------------------------------------------------------------------------------------ statistics


def shift_by_row(mixed, weight):
    """The slow way, one row at a time."""
    shifts, empty = [], 0
    for row in range(len(mixed.lam)):
        mask = mixed.mask[row if len(mixed.mask) > 1 else 0]
        if not bool(mask.any()):
            continue
        area, lam = float(mixed.lam_area[row]), float(mixed.lam[row])
        shifts.append(abs(area - lam))
        by_attention = (lam - (1 - weight) * area) / weight  # lam = weight * by_attention + (1 - weight) * area
        empty += (1 - by_attention) < 0.1 * (1 - area)
    return {"label_shift": sum(shifts) / max(len(shifts), 1), "empty_boxes": empty, "boxes": len(shifts)}


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("boxes", ["one", "each"])
def test_label_shift_equals_a_loop(weight, boxes):
    images, labels = a_batch(5)
    each = [(0, 0, 8, 8), (0, 0, 0, 0), (4, 4, 12, 20), (0, 0, 12, 20), (4, 0, 8, 4)]
    mixed = cutmix(images, labels, each if boxes == "each" else each[0])
    attention = torch.rand(5, 15, generator=torch.Generator().manual_seed(0)) ** 8
    attention[4] = 1
    attention[4, 5] = 0  # a box that nobody looks at
    attention[0].view(3, 5)[:2, :2] = 1e-6
    mixed = attention_labels(mixed, attention, weight=weight)
    shift, expected = label_shift(mixed), shift_by_row(mixed, weight)
    assert {name: float(value) for name, value in shift.items()} == pytest.approx(expected, abs=1e-6)
    assert expected["boxes"] == (4 if boxes == "each" else 5)
    assert expected["empty_boxes"] >= 1
    assert expected["label_shift"] > 0.01
    assert all(value.shape == () for value in shift.values())


def test_label_shift_is_zero_without_boxes_or_without_attention():
    images, labels = a_batch(3)
    for mixed in (mixup(images, labels, 0.3), cutmix(images, labels, (0, 0, 0, 0))):
        assert {name: float(value) for name, value in label_shift(mixed).items()} == {
            "label_shift": 0,
            "empty_boxes": 0,
            "boxes": 0,
        }
    by_area = label_shift(cutmix(images, labels, (0, 0, 4, 4)))
    assert {name: float(value) for name, value in by_area.items()} == {"label_shift": 0, "empty_boxes": 0, "boxes": 3}
