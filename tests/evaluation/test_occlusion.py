from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from transmix.attention import Attention
from transmix.data.dataset import ImageData, Split
from transmix.evaluation import patches as module
from transmix.evaluation.patches import _try, drop, drop_count, occlusion, random_order
from transmix.evaluation.suites import Settings
from transmix.recipes import RecipeError


def looking_model():
    """Build a ViT whose class token looks at the bright patch and tells its colour: red is class 0, green class 1."""
    model = VisionTransformer(
        16, 4, embed_dim=8, depth=1, num_heads=1, num_classes=2, pos_embed="none", norm_layer=nn.Identity
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for channel in (0, 1):
            model.patch_embed.proj.weight[channel, channel] = 1 / 16  # the mean of red, of green
            model.head.weight[channel, channel] = 1
        model.cls_token[..., 2] = 1
        attention = model.blocks[0].attn
        attention.qkv.weight[0, 2] = 30  # the class token asks
        attention.qkv.weight[8, :2] = 1  # brightness answers
        attention.qkv.weight[16:].copy_(torch.eye(8))
        attention.proj.weight.copy_(torch.eye(8))
    return model


def coloured_patches(samples=40):
    """Black images with one bright patch, red or green, somewhere."""
    rng = np.random.default_rng(0)
    images, labels = np.zeros((samples, 16, 16, 3), dtype=np.uint8), rng.integers(0, 2, samples)
    for image, label, (row, column) in zip(images, labels, rng.integers(0, 4, (samples, 2)), strict=True):
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, label] = 255
    split = Split(images, labels)
    return ImageData("patches", ("red", "green"), split, split)


@pytest.fixture
def looking(opened):
    return opened(looking_model(), ("red", "green"), mean_std=((0.0,) * 3, (1.0,) * 3))


def test_dropping_what_a_model_looks_at_hurts_it_and_dropping_the_rest_does_not(looking):
    ratios = (0.0, 1 / 16, 0.5, 15 / 16, 1.0)
    found = dict(occlusion(looking, coloured_patches(), Settings(occlusion_ratios=ratios)))
    first = coloured_patches().val.labels.tolist().count(0) / 40  # of equal logits the first is highest
    assert found["salient"] == [1.0] + [first] * 4
    assert found["non_salient"] == [1.0] * 4 + [first]
    assert found["random"][0] == 1
    assert first < found["random"][2] < 1
    assert (found["grid"], found["saliency"], found["images"]) == ("4 x 4", "class attention of blocks.0.attn", 40)
    assert found["ratios"] == list(ratios)


def test_with_another_saliency_the_salient_patches_would_not_hurt_more(looking, monkeypatch):
    """The negative control: a reader that sees the same everywhere."""
    monkeypatch.setattr(
        module.AttentionReader, "take", lambda self: Attention(torch.ones(len(self.attention), 16), (4, 4), (16, 16))
    )
    found = dict(occlusion(looking, coloured_patches(), Settings(occlusion_ratios=(0.5,))))
    assert found["salient"] == found["non_salient"]


def test_ratio_nought_is_plain_accuracy_whatever_the_way(opened, noise, logits_of):
    one, data = opened(), noise(23)
    logits, labels = logits_of(one, data.val)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    found = dict(occlusion(one, data, Settings(occlusion_ratios=(0.0, 0.5))))
    assert 0 < accuracy < 1
    assert found["random"][0] == found["salient"][0] == found["non_salient"][0] == pytest.approx(accuracy)


def test_batch_size_does_not_matter(opened, noise):
    some = [dict(occlusion(opened(batch_size=size), noise(23), Settings())) for size in (1, 4, 23)]
    assert some[0] == some[1] == some[2]


def test_the_seed_decides_what_is_dropped_for_each_image(noise):
    index = torch.tensor([0, 7, 8])
    order = random_order(index, 16, 0)
    assert torch.equal(order[1:], random_order(index[1:], 16, 0))
    assert not torch.equal(order[0], order[1])
    assert not torch.equal(order, random_order(index, 16, 1))
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(3, 16))


@pytest.mark.parametrize("patches", [4, 10, 196])
def test_tenths_drop_as_many_patches_as_the_published_code(patches):
    assert [drop_count(tenths / 10, patches) for tenths in range(10)] == [t * patches // 10 for t in range(10)]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), grid=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 99))
def test_exactly_the_patches_asked_for_are_dropped_pixel_by_pixel(data, grid, seed):
    height, width = data.draw(st.integers(grid[0], 17)), data.draw(st.integers(grid[1], 17))
    count = data.draw(st.integers(0, grid[0] * grid[1]))
    pixels, fill = torch.rand(3, 2, height, width), torch.tensor([-1.0, -2.0])
    order = random_order(torch.arange(3), grid[0] * grid[1], seed)[:, :count]
    ours = drop(pixels, order, grid, fill)
    for image in range(3):
        dropped = set(order[image].tolist())
        assert len(dropped) == count
        for y in range(height):
            for x in range(width):
                patch = y * grid[0] // height * grid[1] + x * grid[1] // width
                expected = fill if patch in dropped else pixels[image, :, y, x]
                assert torch.equal(ours[image, :, y, x], expected)


def test_a_dropped_patch_is_black_or_the_mean(opened, noise, monkeypatch):
    one, seen = opened(mean_std=((0.5, 0.4, 0.2), (0.5, 0.25, 0.1))), []
    one.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for fill, colour in (("black", [-1.0, -1.6, -2.0]), ("mean", [0.0, 0.0, 0.0])):
        dict(occlusion(one, noise(3), Settings(occlusion_ratios=(1.0,), occlusion_fill=fill)))
        assert seen[-1].mean((0, 2, 3)).tolist() == pytest.approx(colour)
        assert seen[-1].std((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_model_whose_attention_cannot_be_read_is_occluded_at_random_and_it_is_said(opened, noise, small_vit):
    found = dict(occlusion(opened(small_vit(global_pool="avg", class_token=False)), noise(9), Settings()))
    assert found["saliency"].startswith("none: ")
    assert found["grid"] == "4 x 4"
    assert len(found["random"]) == 10
    assert not {"salient", "non_salient"} & set(found)


def test_a_model_without_patches_has_the_grid_of_the_paper(opened, noise):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    found = dict(occlusion(opened(plain), noise(9), Settings(occlusion_ratios=(0.5,))))
    assert found["grid"] == "14 x 14"


@pytest.mark.parametrize("name", ["pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_a_hierarchical_model_has_the_grid_of_the_paper_and_not_its_first_patches(opened, noise, name):
    options = {"img_size": 224} if name.startswith("swin") else {}
    one = opened(timm.create_model(name, num_classes=6, **options), side=224)
    grid, saliency = _try(one)
    assert grid == (14, 14)
    assert saliency.startswith("none: ")


@pytest.mark.parametrize("ratios", [(), (0.5, 1.2), (-0.1,)])
def test_ratios_that_are_no_shares_are_refused_before_anything_runs(opened, noise, ratios):
    with pytest.raises(RecipeError, match=r"occlusion_ratios are shares of the patches in 0\.\.1, not \["):
        occlusion(opened(), noise(3), replace(Settings(), occlusion_ratios=ratios))


def test_the_model_is_left_as_it_was(looking):
    occluded = occlusion(looking, coloured_patches(6), Settings())
    dict(occluded)
    assert all("forward" not in module.__dict__ for module in looking.model.modules())
