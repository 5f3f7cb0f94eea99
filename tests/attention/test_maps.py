"""Whole attention maps: explicit, every layer, and nothing left behind in the model."""

import copy

import pytest
import torch
from torch import nn

from transmix import AttentionError, AttentionReader
from transmix.attention import attention_maps, with_class_attention

timm = pytest.importorskip("timm")


def explicit_maps(model, images):
    """The softmax of every layer of a copy that forms its attention in full; nothing of our code."""
    slow = copy.deepcopy(model).eval()
    maps, softmax = [], torch.Tensor.softmax
    for module in slow.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if isinstance(module, nn.MultiheadAttention):
            forward = module.forward
            module.forward = lambda *args, f=forward, **kwargs: keep(
                maps, f(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            )

    def spy(scores, *args, **kwargs):
        weights = softmax(scores, *args, **kwargs)
        if not any(isinstance(module, nn.MultiheadAttention) for module in slow.modules()):
            maps.append(weights)
        return weights

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.Tensor, "softmax", spy)
        slow(images)
    return maps


def keep(maps, output):
    maps.append(output[1])
    return output


def assert_maps_are_explicit(maps, model, images):
    expected = [weights for weights in explicit_maps(model, images) if weights.shape[-1] > 16]  # not over channels
    assert len(maps) == len(expected) > 0
    for found, wanted in zip(maps, expected, strict=True):
        assert found.dtype == torch.float32
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))


def test_every_layers_map_is_the_explicit_softmax(family):
    if family.name == "looking":
        pytest.skip("forms no softmax by torch.Tensor.softmax alone in its fused form")
    model, images = family.model(), family.images()
    assert_maps_are_explicit(attention_maps(model, images), model, images)


def test_maps_of_another_image_or_in_another_order_are_rejected(vit):
    model, images = vit.model(), vit.images()
    maps = attention_maps(model, images)
    for wrong in (attention_maps(model, vit.images(seed=9)), maps[::-1], maps[:1], [m.transpose(2, 3) for m in maps]):
        with pytest.raises(AssertionError):
            assert_maps_are_explicit(wrong, model, images)


def test_the_last_maps_class_row_is_what_the_reader_reads(family):
    model, images = family.model(), family.images()
    last = attention_maps(model, images, layers=-1)[0]
    reader = AttentionReader(model, family.module, training=False, eval=True)
    model.eval()(images)
    row = reader.take().row
    torch.testing.assert_close(last[:, :, 0, -row.shape[1] :].mean(1), row, rtol=0, atol=1e-6)


def test_unfused_attention_gives_the_same_maps(vit):
    model, images = vit.model(), vit.images()
    fused = attention_maps(model, images)
    for block in model.blocks:
        block.attn.fused_attn = False
    for found, wanted in zip(attention_maps(model, images), fused, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_layers_are_chosen_by_their_depth(vit):
    model, images = vit.model(), vit.images()
    first, last = attention_maps(model, images)
    assert torch.equal(attention_maps(model, images, layers=0)[0], first)
    chosen = attention_maps(model, images, layers=[-1, 0])
    assert torch.equal(chosen[0], last)
    assert torch.equal(chosen[1], first)


@pytest.mark.parametrize("layers", [2, -3, [0, 5], "last", ["0"]])
def test_a_layer_that_is_not_there_is_refused(vit, layers):
    with pytest.raises(AttentionError) as error:
        attention_maps(vit.model(), vit.images(), layers)
    assert str(error.value) == (
        f"VisionTransformer has 2 layers that attend over the whole image; there is no {layers!r}"
    )


def test_windows_and_channels_are_left_out(make_timm):
    swin = make_timm(
        "swin_tiny_patch4_window7_224", (56, 112), patch_size=4, embed_dim=12, depth=None, depths=(1, 1),
        num_heads=(1, 2), window_size=7,
    )  # fmt: skip
    with pytest.raises(AttentionError) as error:
        attention_maps(swin, torch.rand(2, 3, 56, 112))
    assert str(error.value) == (
        "SwinTransformer has no layer that attends over the whole image by softmax: only over windows or channels, "
        "or not at all"
    )
    headed = with_class_attention(swin)
    assert [tuple(m.shape) for m in attention_maps(headed, torch.rand(2, 3, 56, 112))] == [(2, 1, 1, 7 * 14 + 1)]
    xcit = make_timm("xcit_nano_12_p8_224", patch_size=None, embed_dim=32)
    assert [tuple(m.shape) for m in attention_maps(xcit, torch.rand(2, 3, 32, 48))] == [(2, 2, 1, 25)] * 2


def test_the_model_is_left_as_it_was(vit):
    model, images = vit.model(), vit.images()
    model.blocks[0].eval()  # somebody froze it
    before = {name: (module.training, sorted(module.__dict__)) for name, module in model.named_modules()}
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    attention_maps(model, images)
    with pytest.raises(RuntimeError):
        attention_maps(model, images[:, :1])
    assert {name: (module.training, sorted(module.__dict__)) for name, module in model.named_modules()} == before
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks == 0


def test_a_reader_does_not_notice(vit):
    model, images = vit.model(), vit.images()
    reader = AttentionReader(model)
    model(images)
    attention_maps(model, vit.images(seed=5))
    row = reader.take().row
    model(images)
    assert torch.equal(row, reader.take().row)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_is_run_as_it_is_written(vit, how):
    model, images = vit.model(), vit.images()
    expected = attention_maps(model, images)
    compiled = torch.compile(model, backend="eager", fullgraph=True) if how == "wrapped" else model
    if how == "in place":
        model.compile(backend="eager", fullgraph=True)
    compiled(images)
    for found, wanted in zip(attention_maps(compiled, images), expected, strict=True):
        assert torch.equal(found, wanted)


def test_what_a_reader_computes_is_no_layer_and_it_reads_nothing_of_this():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=2)
    images = torch.rand(2, 3, 32, 32)
    alone = attention_maps(model, images)
    with AttentionReader(model, eval=True) as reader:
        beside = attention_maps(model, images)
        with pytest.raises(AttentionError, match="it has not run since"):
            reader.take(images)
        model.eval()(images)
        assert reader.take(images).row.shape == (2, 4)
    assert [one.shape for one in beside] == [one.shape for one in alone]
    assert all(torch.equal(one, other) for one, other in zip(beside, alone, strict=True))
