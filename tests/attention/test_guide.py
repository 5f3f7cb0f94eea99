"""The guide: maps of clean images, equal to what the model forms in full, and the model left as it was."""

import copy

import pytest
import torch
from explicit import sharpen
from torch import nn

from transmix import AttentionError, AttentionReader
from transmix.attention import attention_maps
from transmix.attention.guide import Guide

timm = pytest.importorskip("timm")

LABELS = torch.tensor([3, 1, 1])


def a_vit(**settings):
    size = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 5}
    return sharpen(timm.create_model("deit_tiny_patch16_224", **size, **settings)).train()


def a_batch(side=32):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_maps_of_both_kinds_and_the_logits_come_from_one_forward():
    model, images = a_vit(), a_batch()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    look = Guide(model, patches=True).look(images, LABELS)
    assert calls == []  # lazily
    by_class, by_patches, logits = look.maps("class"), look.maps("patches"), look.logits()
    assert len(calls) == 1
    whole = attention_maps(model, images, layers=-1)[0]
    torch.testing.assert_close(by_class.row, whole[:, :, 0, 1:].mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(by_patches.row, whole[:, :, 1:, 1:].mean((1, 2)), rtol=0, atol=1e-6)
    assert (by_class.row - by_patches.row).abs().max() > 1e-3  # one is not the other
    assert by_class.grid == (4, 4)
    assert by_class.extent == (32, 32)
    torch.testing.assert_close(logits, model.eval()(images).detach())


class Model(nn.Module):
    """A ViT behind a batch norm, with dropout, a part of it frozen in eval mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.vit = a_vit()
        self.drop = nn.Dropout(0.5)
        self.vit.patch_embed.eval()

    def forward(self, images):
        return self.drop(self.vit(self.norm(images)))


def test_modes_statistics_random_states_and_gradients_stay():
    model, images = Model(), a_batch()
    modes = [module.training for module in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    look = Guide(model, module="vit.blocks.1.attn").look(images.requires_grad_(), LABELS)
    assert not look.maps().row.requires_grad
    assert not look.logits().requires_grad
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_forward_in_training_mode_would_be_noticed():
    model, images = Model(), a_batch()
    before, state = model.norm.running_mean.clone(), torch.random.get_rng_state()
    model(images)
    assert not torch.equal(model.norm.running_mean, before)
    assert not torch.equal(torch.random.get_rng_state(), state)


def test_a_reader_in_use_is_shared_and_its_rows_are_left_alone():
    model, images = a_vit(), a_batch()
    reader = AttentionReader(model)
    logits = model(images)
    other = a_batch().flip(0)
    Guide(model, reader).look(other, LABELS).maps()
    torch.testing.assert_close(reader.take(images).row, attention_maps(model, images, -1)[0][:, :, 0, 1:].mean(1))
    assert logits.requires_grad
    assert not reader.eval


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_models_without_a_class_token_give_class_maps(name):
    model = timm.create_model(name, num_classes=5).eval()
    images = a_batch(224)
    look = Guide(model).look(images, LABELS)
    maps = look.maps()
    assert maps.grid == (7, 7)
    # By hand: each place's features alone, through the head, for the image's own class.
    features = model.forward_features(images)
    for row, y, x in ((0, 0, 0), (1, 3, 5), (2, 6, 1)):
        place = (
            features[row : row + 1, y : y + 1, x : x + 1]
            if "swin" in name
            else features[row : row + 1, :, y : y + 1, x : x + 1]
        )
        expected = model.forward_head(place)[0, LABELS[row]]
        torch.testing.assert_close(maps.row[row, 7 * y + x], expected.detach(), rtol=1e-4, atol=1e-5)
    if name == "resnet10t":  # a linear head: the map's mean is the logit
        torch.testing.assert_close(maps.row.mean(1), look.logits()[torch.arange(3), LABELS], rtol=1e-4, atol=1e-5)


def test_maps_can_be_given():
    images = a_batch()
    given = torch.rand(3, 2, 4)
    look = Guide(lambda pictures, labels: given).look(images, LABELS)
    for kind in ("class", "patches"):
        assert torch.equal(look.maps(kind).row, given.flatten(1))
        assert look.maps(kind).grid == (2, 4)
    with pytest.raises(AttentionError, match="a function as guide gives none: guide=a model"):
        look.logits()
    with pytest.raises(ValueError, match=r"a guide gives maps \(3, h, w\) or \(3, P\), not \(2, 16\)"):
        Guide(lambda *_: torch.rand(2, 16)).look(images, LABELS).maps()


def test_what_a_model_cannot_give_is_refused_with_the_remedy():
    cait = timm.create_model("cait_xxs24_224", num_classes=5, depth=1).eval()
    with pytest.raises(AttentionError, match=r"the class token is the only query.*or give the maps: guide=a function"):
        Guide(cait, patches=True)  # before any forward
    with pytest.raises(AttentionError, match="Or give the maps yourself: guide=a function"):
        Guide(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))


@pytest.mark.usefixtures("fresh_compiler")
def test_it_looks_through_compile_and_autocast():
    model, images = a_vit(), a_batch()
    expected = Guide(copy.deepcopy(model)).look(images, LABELS).maps().row
    model.compile(backend="eager", fullgraph=True)
    guide = Guide(torch.compile(model, backend="eager"))
    torch.testing.assert_close(guide.look(images, LABELS).maps().row, expected, rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        row = guide.look(images, LABELS).maps().row
    assert row.dtype == torch.float32
    torch.testing.assert_close(row, expected, rtol=0, atol=0.02)
