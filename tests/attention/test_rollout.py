"""Rollout: fused and explicit give the same class token, on the models' own attention, and (N, N) is never formed."""

import pytest
import torch
from explicit import sharpen
from torch.utils._python_dispatch import TorchDispatchMode

from transmix import AttentionError, AttentionReader
from transmix.attention import attention_maps
from transmix.attention.rollout import Rollout, blocks_of

timm = pytest.importorskip("timm")

SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 2, "num_classes": 5}
DEIT = SMALL | {"img_size": 32, "patch_size": 8}
DINO = SMALL | {"img_size": 42}


class Sizes(TorchDispatchMode):
    """Note the size of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.seen |= {tuple(one.shape) for one in torch.utils._pytree.tree_leaves(output) if hasattr(one, "shape")}
        return output


def torchvisions():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.VisionTransformer(32, 8, 3, 2, 48, 96, num_classes=5)


def hugging_faces():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)
    return transformers.ViTForImageClassification(config)


MODELS = {
    "deit": lambda: timm.create_model("deit_tiny_patch16_224", **DEIT),
    "distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **DEIT),
    "registers": lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **DINO),
    "torchvision": torchvisions,
    "transformers": hugging_faces,
}


def explicit(model, images, tokens):
    """The published loop, over attention that the model forms in full."""
    for attention in attention_maps(model, images):
        mean = attention.double().mean(1)
        tokens = (mean @ tokens.double()[:, :, None])[:, :, 0] / 2 + tokens.double() / 2
    return tokens[:, 0].float()


def rolled(model, images, reader=None):
    reader = reader or AttentionReader(model, every_block=True)
    model(images)
    seen, record = reader.take_record(images)
    return Rollout(record.blocks, record.prefix, seen.grid, seen.extent, slice(None)), reader


def a_case(name, batch=3):
    model = sharpen(MODELS[name]()).eval()
    side = DINO["img_size"] if name == "registers" else 32
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    count = attention_maps(model, images, layers=-1)[0].shape[-1]
    return model.train(), images, torch.rand(batch, count, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_form_equals_the_explicit_one_and_never_forms_the_matrix(name):
    model, images, tokens = a_case(name)
    rollout, _ = rolled(model, images)
    with Sizes() as sizes:
        got = rollout.shares(tokens)
    torch.testing.assert_close(got, explicit(model, images, tokens), rtol=0, atol=1e-6)
    assert not got.requires_grad
    count = tokens.shape[1]
    assert all(size.count(count) < 2 for size in sizes.seen)


def test_what_forms_the_matrix_is_noticed():
    model, images, tokens = a_case("deit")
    with Sizes() as sizes:
        explicit(model, images, tokens)
    assert any(size.count(tokens.shape[1]) == 2 for size in sizes.seen)


def test_a_softmax_that_a_module_forms_itself_is_followed_too():
    model, images, tokens = a_case("deit")
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(
        rolled(model, images)[0].shares(tokens), explicit(model, images, tokens), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("wrong", ["last block alone", "no half", "other images", "own heads"])
def test_wrong_versions_are_told_apart(wrong):
    model, images, tokens = a_case("deit")
    right = rolled(model, images)[0].shares(tokens)
    maps = [one.mean(1) for one in attention_maps(model, images.flip(0) if wrong == "other images" else images)]
    if wrong == "own heads":
        maps = [one[:, 0] for one in attention_maps(model, images)]
    carried = tokens
    for attention in maps[-1:] if wrong == "last block alone" else maps:
        mixed = (attention @ carried[:, :, None])[:, :, 0]
        carried = mixed if wrong == "no half" else (mixed + carried) / 2
    assert (carried[:, 0] - right).abs().max() > 1e-3


@pytest.mark.usefixtures("fresh_compiler")
def test_it_is_read_under_compile_and_checkpointing():
    model, images, tokens = a_case("deit")
    model.set_grad_checkpointing()
    reader = AttentionReader(model, every_block=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        compiled(images).sum().backward()
        seen, record = reader.take_record(images)
        rollout = Rollout(record.blocks, record.prefix, seen.grid, seen.extent, slice(None))
        assert len(record.blocks) == 3
        torch.testing.assert_close(rollout.shares(tokens), explicit(model, images, tokens), rtol=0, atol=1e-5)


def test_rows_of_a_larger_batch():
    model, images, tokens = a_case("deit")
    reader = AttentionReader(model, every_block=True)
    model(torch.cat([images, images.flip(0)]))
    seen, record = reader.take_record(images, slice(0, 3))
    rollout = Rollout(record.blocks, record.prefix, seen.grid, seen.extent, slice(0, 3))
    torch.testing.assert_close(rollout.shares(tokens), explicit(model, images, tokens), rtol=0, atol=1e-6)


def test_half_precision_is_carried_in_float32():
    model, images, tokens = a_case("deit")
    reader = AttentionReader(model, every_block=True)
    with torch.autocast("cpu", torch.bfloat16):
        rollout, _ = rolled(model, images, reader)
        assert rollout.calls[0].query.dtype == torch.bfloat16
        got = rollout.shares(tokens)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, explicit(model, images, tokens), rtol=0, atol=0.02)


def test_models_whose_tokens_cannot_be_followed_are_refused():
    pit = timm.create_model("pit_ti_224", num_classes=5).eval()
    images = torch.rand(1, 3, 224, 224)
    rollout, _ = rolled(pit, images, AttentionReader(pit, every_block=True, eval=True))
    with pytest.raises(AttentionError, match=r"cannot be followed"):
        rollout.shares(torch.rand(1, rollout.prefix + rollout.grid[0] * rollout.grid[1] + 1))
    for name in ("cls_attn_blocks.1.attn", "blocks_token_only.1.attn"):  # found before a forward, not in mid-run
        with pytest.raises(AttentionError, match=r"has no stack of blocks that end in"):
            blocks_of(timm.create_model("xcit_nano_12_p16_224" if "cls" in name else "cait_xxs24_224"), name)
    with pytest.raises(AttentionError, match=r"ResNet has no stack of blocks that end in 'fc'"):
        blocks_of(timm.create_model("resnet10t"), "fc")
