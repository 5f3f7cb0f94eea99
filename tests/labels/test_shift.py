"""The shift of rules that look at patches: the mask as tokens see it whose receptive field lies beside their patch."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from transmix import TransMix, cutmix
from transmix.attention import Attention, AttentionError, receptive_shift, with_class_attention
from transmix.labels import AttentionLabels, Evidence, SourceLabels, attention_labels, source_labels
from transmix.labels.patches import fractions_on_patches, mask_on_patches

SIZE, GRID = (16, 24), (4, 6)
TINY = {"img_size": 48, "embed_dim": 32, "num_heads": 2, "depth": 1}


def masks(rows, seed=0):
    return torch.rand(rows, *SIZE, generator=torch.Generator().manual_seed(seed)) > 0.5


def moved(mask, shift):
    """The mask in sixths of a pixel, moved down and right by hand, and the mean of each patch."""
    fine = np.repeat(np.repeat(np.asarray(mask, dtype=float), 6, axis=-2), 6, axis=-1)
    steps = round(6 * shift)
    down, across = (np.clip(np.arange(6 * side) - steps, 0, 6 * side - 1) for side in SIZE)
    return fine[..., down[:, None], across].reshape(len(mask), 4, 24, 6, 24).mean((2, 4))


@pytest.mark.parametrize("shift", [0, 1, 2.5, 1 / 3, 4, -1.5, 7])
def test_the_shifted_fraction_is_that_of_the_mask_moved_by_hand(shift):
    mask = masks(3)
    expected = moved(mask, shift)
    assert mask_on_patches(mask, GRID, "fraction", shift=shift).numpy() == pytest.approx(expected, abs=1e-5)
    assert fractions_on_patches(mask, GRID, None, shift).numpy() == pytest.approx(expected.reshape(3, -1), abs=1e-5)
    if shift:
        assert not np.allclose(expected, moved(mask, 0), atol=0.05)  # the test can fail


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_padding_belongs_to_neither_image_and_whole_masks_stay_whole(shift):
    whole = torch.ones(1, 14, 21, dtype=torch.bool)
    assert torch.allclose(mask_on_patches(whole, GRID, "fraction", SIZE, shift), torch.ones(1, *GRID))


def test_rules_see_the_shifted_mask():
    rng = torch.Generator().manual_seed(1)
    row = torch.rand(3, 24, generator=rng)
    mixed = cutmix(torch.rand(3, 1, *SIZE), torch.arange(3), [(1, 2, 9, 15), (0, 0, 16, 5), (7, 3, 12, 24)])
    pasted = torch.tensor(moved(mixed.mask, 1.5)).flatten(1).float()
    own = (row * (1 - pasted)).sum(1) / row.sum(1)
    by_rule = AttentionLabels(1.0, "fraction", 1.5)(mixed, Evidence(Attention(row, GRID, SIZE))).lam
    by_function = attention_labels(mixed, row, grid=GRID, weight=1.0, downsample="fraction", shift=1.5).lam
    assert by_rule.tolist() == by_function.tolist() == pytest.approx(own.tolist(), abs=1e-5)

    maps = row / row.sum(1, keepdim=True)
    own, theirs = (maps * (1 - pasted)).sum(1), (maps[mixed.partner] * pasted).sum(1)
    evidence = Evidence(clean=Attention(row, GRID, SIZE))
    whole, half = (SourceLabels(weight=weight, shift=1.5)(mixed, evidence).lam for weight in (1.0, 0.5))
    assert whole.tolist() == pytest.approx((own / (own + theirs)).tolist(), abs=1e-5)
    assert half.tolist() == pytest.approx(((own / (own + theirs) + mixed.lam_area) / 2).tolist(), abs=1e-5)
    assert source_labels(mixed, row, grid=GRID, weight=0.5, shift=1.5).lam.tolist() == half.tolist()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="shift moves the fraction of each patch: downsample must be 'fraction'"):
        AttentionLabels(shift=1.0)
    with pytest.raises(ValueError, match="shift is a number of pixels, or 'model', not 'auto'"):
        SourceLabels(shift="auto")
    with pytest.raises(ValueError, match=r"weight is the share of the maps in \[0, 1\], not 2"):
        SourceLabels(weight=2)
    with pytest.raises(ValueError, match="weight is for labels that sum to one"):
        SourceLabels(sum_to_one=False, weight=0.5)
    mixed = cutmix(torch.rand(2, 1, *SIZE), torch.arange(2), (0, 0, 8, 8))
    evidence = Evidence(Attention(torch.rand(2, 24), GRID, SIZE), clean=Attention(torch.rand(2, 24), GRID, SIZE))
    for rule in (AttentionLabels(downsample="fraction", shift="model"), SourceLabels(shift="model")):
        with pytest.raises(ValueError, match=r"needs pixels: shift=transmix.attention.receptive_shift\(model\)"):
            rule(mixed, evidence)


def middle_by_arithmetic(model):
    """Of a chain of convolutions: the middle of the pixels of token 0 is the sum of each one's own, in its steps."""
    step, middle = 1, 0.5
    for layer in (layer for layer in model.modules() if isinstance(layer, nn.Conv2d)):
        middle += step * ((layer.kernel_size[0] - 1) / 2 - layer.padding[0])
        step *= layer.stride[0]
    return step / 2 - middle


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("xcit_nano_12_p8_224", {**TINY, "cls_attn_layers": 1}, 3.5),
        ("xcit_nano_12_p16_224", {**TINY, "cls_attn_layers": 1}, 7.5),
        ("deit_tiny_patch16_224", TINY, 0),
        ("vit_tiny_patch16_224", {**TINY, "patch_size": 12}, 0),
    ],
)
def test_where_tokens_look_is_what_arithmetic_says(name, options, expected):
    model = timm.create_model(name, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert receptive_shift(model) == expected == middle_by_arithmetic(model.patch_embed)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_transmix_finds_the_shift_from_the_model_that_looks():
    looks, other = (timm.create_model("xcit_nano_12_p8_224", **TINY, cls_attn_layers=1) for _ in range(2))
    plain = timm.create_model("deit_tiny_patch16_224", **TINY)
    options = {"downsample": "fraction", "shift": "model"}
    assert TransMix(looks, labels_options=options).rule.shift == 3.5
    assert TransMix(plain, labels="source", labels_options={"shift": "model"}, guide=other).rule.shift == 3.5
    assert TransMix(other, labels="source", labels_options={"shift": "model"}).rule.shift == 3.5
    with pytest.raises(AttentionError, match="where maps come from elsewhere, give pixels"):
        TransMix(
            plain,
            labels="source",
            labels_options={"shift": "model"},
            guide=lambda images, labels: torch.rand(len(images), 3, 3),
        )


@pytest.mark.parametrize("name", ["hybrid", "class-attention head", "tnt"])
def test_a_model_that_does_not_cut_images_in_one_module_says_so(name):
    if name == "hybrid":
        model = timm.create_model(
            "vit_tiny_r_s16_p8_224", img_size=64, embed_dim=32, depth=1, num_heads=2, patch_size=1
        )
    elif name == "tnt":  # its patch embedding is given more than images
        model = timm.create_model("tnt_s_legacy_patch16_224", img_size=32, depth=1)
        with pytest.raises(AttentionError, match="PixelEmbed makes no patches of images alone"):
            receptive_shift(model)
        return
    else:
        model = with_class_attention(timm.create_model("resnet10t", num_classes=2))
    with pytest.raises(AttentionError, match=r"by one module that gets the images\. Give the rule's shift in pixels"):
        receptive_shift(model)
