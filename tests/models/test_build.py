"""What the weights of linear layers start from, and when that is left alone."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from transmix.models.build import build_model
from transmix.recipes.settings import Model

XCIT = {"embed_dim": 64, "num_heads": 4, "depth": 1, "cls_attn_layers": 1}


def build(**settings):
    torch.manual_seed(3)
    return build_model(Model("xcit_nano_12_p8_224", XCIT, **settings), 10, 48)


def linear_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def test_xavier_draws_linear_weights_by_their_width_and_timm_does_not():
    ours, timms = linear_layers(build(linear_init="xavier")), linear_layers(build())
    assert len(ours) == 11
    for layer, other in zip(ours, timms, strict=True):
        spread = math.sqrt(2 / sum(layer.weight.shape))
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.1)
        assert layer.weight.abs().max().item() <= spread * math.sqrt(3) + 1e-6  # uniform
        assert other.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()


def test_everything_else_starts_as_without():
    ours, timms = build(linear_init="xavier").state_dict(), build().state_dict()
    linear = {f"{name}.weight" for name, layer in build().named_modules() if isinstance(layer, nn.Linear)}
    assert {name for name in ours if not torch.equal(ours[name], timms[name])} == linear


def test_weights_that_are_brought_stay(tmp_path):
    brought = build().state_dict()
    save_file(brought, tmp_path / "model.safetensors")
    model = build(linear_init="xavier", init=str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, brought[name]) for name, value in model.state_dict().items())
