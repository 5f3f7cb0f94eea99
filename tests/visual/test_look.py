"""Grid, prefix tokens and the class token's rows, for images and grids of any shape."""

import copy

import pytest
import torch

from transmix import AttentionError
from transmix.attention import with_class_attention
from transmix.visual.look import head_rows, layer_rows, look


def images(batch=2, size=(32, 48)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def explicit(model, batch):
    """Every softmax of a copy that forms its attention; nothing of our code."""
    slow, maps, softmax = copy.deepcopy(model).eval(), [], torch.Tensor.softmax
    for module in slow.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(
            torch.Tensor, "softmax", lambda *args, **kwargs: maps.append(softmax(*args, **kwargs)) or maps[-1]
        )
        slow(batch)
    return maps


FAMILIES = {
    "deit": ("deit_tiny_patch16_224", {}, 1),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2),
    "registers": ("vit_small_patch14_reg4_dinov2", {}, 5),
    "siglip": ("vit_base_patch16_siglip_224", {}, 0),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "patch", "grid"), [((32, 48), 8, (4, 6)), ((48, 24), 8, (6, 3)), ((32, 16), 4, (8, 4))]
)
def test_grid_prefix_and_rows_are_those_of_the_explicit_softmax(family, size, patch, grid, tiny):
    architecture, changes, prefix = FAMILIES[family]
    model, batch = tiny(architecture, size, patch_size=patch, **changes), images(size=size)
    looked, maps = look(model, batch), explicit(model, batch)
    patches = grid[0] * grid[1]
    assert (looked.grid, looked.prefix, looked.attention.shape) == (grid, prefix, (2, patches))
    assert looked.own_token == (family != "siglip")
    rows = layer_rows(looked)
    assert [number for number, _ in rows] == (list(range(3)) if prefix else [3])  # an attention pool asks last
    for number, found in rows:
        torch.testing.assert_close(found, maps[number][:, :, 0, prefix:], rtol=0, atol=1e-5)
        if prefix:  # rows that start one token early are others
            assert not torch.allclose(found, maps[number][:, :, 0, prefix - 1 : -1], atol=1e-3)
    torch.testing.assert_close(rows[-1][1].mean(1), looked.attention, rtol=0, atol=1e-5)
    torch.testing.assert_close(head_rows(looked), rows[-1][1])
    assert torch.equal(head_rows(looked, rows[0][0]), rows[0][1])


def test_layers_in_which_the_class_token_alone_asks_are_read_and_those_before_it_joined_are_not(tiny):
    looked = look(tiny("cait_xxs24_224"), images())
    assert [tuple(one.shape[1:]) for one in looked.maps] == [(2, 24, 24)] * 3 + [(2, 1, 25)] * 2
    assert [number for number, _ in layer_rows(looked)] == [3, 4]
    with pytest.raises(AttentionError) as error:
        head_rows(looked, 1)
    assert str(error.value) == "in layer 1 no class token attends to the 4 x 6 patches; it does in 3, 4"


def test_channel_attention_leaves_the_class_attention_layers(tiny):
    looked = look(tiny("xcit_nano_12_p8_224", patch_size=None, embed_dim=32), images())
    assert (looked.grid, [tuple(one.shape) for one in looked.maps]) == ((4, 6), [(2, 2, 1, 25)] * 2)
    assert [rows.shape for _, rows in layer_rows(looked)] == [(2, 2, 24)] * 2


def test_a_class_attention_head_is_read_over_windows_that_are_not(tiny):
    options = {"patch_size": 4, "embed_dim": 12, "depth": None, "depths": (1, 1), "num_heads": (1, 2), "window_size": 7}
    swin = tiny("swin_tiny_patch4_window7_224", (56, 112), **options)
    with pytest.raises(AttentionError, match="put a class-attention head in place of its pooling"):
        look(swin, images(size=(56, 112)))
    looked = look(with_class_attention(swin), images(size=(56, 112)))
    assert (looked.grid, looked.attention.shape, len(looked.maps)) == ((7, 14), (2, 98), 1)


@pytest.mark.parametrize("layer", [3, -4, 99])
def test_a_layer_that_is_not_there_is_named(layer, tiny):
    looked = look(tiny("deit_tiny_patch16_224"), images())
    with pytest.raises(AttentionError) as error:
        head_rows(looked, layer)
    assert str(error.value) == (f"the model has 3 layers that attend over the whole image, 0 to 2; there is no {layer}")


def test_looking_leaves_the_model_as_it_was(tiny):
    model = tiny("deit_tiny_patch16_224").train()
    model.blocks[1].eval()
    names, state = [dict(vars(module)) for module in model.modules()], torch.get_rng_state()
    look(model, images(), maps=False)
    assert [dict(vars(module)) for module in model.modules()] == names
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.blocks[1].training
