"""What cannot be read is refused, with the module that was found and the remedy."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transmix import AttentionError, AttentionReader


def refusal(model, module=None):
    with pytest.raises(AttentionError) as error:
        AttentionReader(model, module)
    return str(error.value)


UNKNOWN = "is not a model whose class attention is known."
HEAD = "put a class-attention head in place of its pooling: transmix.attention.with_class_attention(model)"
AVERAGES = f"If it averages its features instead, {HEAD}"
POINT = (
    "If its logits come from its class token (cls_token), point at the module in which that token looks last, "
    "module=...; its last attention-like modules:"
)
OTHERWISE = "If they come from an average instead, use a model whose logits come from a class token"


def test_a_net_without_attention_is_refused():
    import timm

    assert refusal(timm.create_model("resnet18")) == (
        f"ResNet {UNKNOWN} It holds no module that looks like attention. {AVERAGES}"
    )


def test_swin_is_refused(make_timm):
    swin = make_timm(
        "swin_tiny_patch4_window7_224", (28, 56), patch_size=None, embed_dim=12, depth=None, depths=(1, 1),
        num_heads=(1, 2), window_size=7,
    )  # fmt: skip
    assert refusal(swin) == (
        f"SwinTransformer {UNKNOWN} It holds attention, but no parameter that looks like a class token. {AVERAGES}"
    )


AVERAGED = (
    "averages its class token away or leaves it unused (global_pool='avg'): its attention does not "
    f"belong to the prediction. Create the model with global_pool='token', or {HEAD}"
)


@pytest.mark.parametrize(
    ("architecture", "changes", "text"),
    [
        ("deit_tiny_patch16_224", {"global_pool": "avg"}, f"VisionTransformer {AVERAGED}"),
        ("eva02_tiny_patch14_224", {}, f"Eva {AVERAGED}"),
        ("vit_small_patch16_dinov3", {}, f"Eva {AVERAGED}"),
        (
            "vit_base_patch16_siglip_gap_224",
            {},
            "VisionTransformer has no class token (global_pool='avg'): no attention belongs to its class prediction. "
            f"Use a model with a class token and global_pool='token', or {HEAD}",
        ),
        ("cait_xxs24_224", {"global_pool": "avg"}, f"Cait {AVERAGED}"),
    ],
)
def test_an_averaged_class_token_is_refused(make_timm, architecture, changes, text):
    model = make_timm(architecture, **changes)
    before = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    assert refusal(model) == text
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == before


def test_an_unknown_module_is_refused(vit, families):
    known = "Its class token looks in 'blocks.1.attn', which is found without module="
    assert refusal(vit.model(), "blocks.7.attn") == f"VisionTransformer has no module 'blocks.7.attn'. {known}"
    assert refusal(vit.model(), nn.Linear(2, 2)) == f"VisionTransformer has no the Linear given. {known}"
    assert refusal(families["own"].model()) == f"OwnModel {UNKNOWN} {POINT} looking. {OTHERWISE}"


class Calls(nn.Module):
    """A module that calls fused attention as often as it is told, over tokens of its own choice."""

    def __init__(self, times=1, keep=None, **settings):
        super().__init__()
        self.times, self.keep, self.settings = times, keep, settings

    def forward(self, tokens):
        query = tokens[:, None]
        for _ in range(self.times):
            query = F.scaled_dot_product_attention(
                query, query[:, :, : self.keep], query[:, :, : self.keep], **self.settings
            )
        return query[:, 0]


def failure(model, *inputs):
    with pytest.raises(AttentionError) as error:
        model(*inputs)
    return str(error.value)


class Gated(nn.Module):
    """Two softmaxes in one module, as ConViT's gated attention; neither says alone where it looks."""

    def forward(self, tokens):
        scores = (tokens @ tokens.transpose(1, 2))[:, None]
        return ((scores.softmax(-1) + (2 * scores).softmax(-1)) / 2 @ tokens[:, None])[:, 0]


class OverQueries(nn.Module):
    """A softmax over another axis than the keys, as in factorised attention."""

    def forward(self, tokens):
        return ((tokens @ tokens.transpose(1, 2))[:, None].softmax(2) @ tokens[:, None])[:, 0]


ONCE = (
    "to compute attention once, with torch's scaled_dot_product_attention or a softmax over (batch, heads, queries, "
    "keys), but it did"
)
TWICE = f"{ONCE} 2 times. Point at the one module that computes the class token's attention"
NONE = f"{ONCE} 0 times. Attention of another kind, or inside an extension, cannot be read: point at another module"
OTHER = "patch dropout, merged patches, or not the class token's attention"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Calls(2), f"expected '0' (Calls) {TWICE}"),
        (Gated(), f"expected '0' (Gated) {TWICE}"),
        (OverQueries(), f"expected '0' (OverQueries) {NONE}"),
        (
            Calls(keep=1),
            f"'0' (Calls) attends over 1 tokens, which cannot be 0 patches after a class token (grid None): {OTHER}",
        ),
        (Calls(is_causal=True), "attention is causal: the first token sees nothing but itself"),
    ],
    ids=["two calls", "two softmaxes", "softmax over another axis", "class token alone", "causal"],
)
def test_attention_that_is_not_one_row_of_the_class_token_is_refused(module, text):
    model = nn.Sequential(module)
    AttentionReader(model, "0")
    assert failure(model, torch.rand(2, 5, 4)) == text


def test_a_module_without_attention_is_refused_at_its_forward(vit):
    model = vit.model()
    reader = AttentionReader(model, "blocks.1.mlp")
    assert failure(model, vit.images()) == f"expected 'blocks.1.mlp' (Mlp) {NONE}"
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()


def test_a_failed_forward_in_eval_mode_is_none(vit):
    model = vit.model()
    AttentionReader(model, "blocks.1.mlp")
    model.eval()(vit.images())


@pytest.mark.parametrize(
    ("changes", "tokens"), [({"patch_drop_rate": 0.5}, 13), ({"class_token": False, "global_pool": "avg"}, 24)]
)
def test_dropped_patches_and_attention_between_patches_alone_are_refused(make_timm, changes, tokens):
    model = make_timm("deit_tiny_patch16_224", **changes).train()
    AttentionReader(model, "blocks.1.attn")
    assert failure(model, torch.rand(2, 3, 32, 48)) == (
        f"'blocks.1.attn' (Attention) attends over {tokens} tokens, which cannot be 24 patches after a class token "
        f"(grid (4, 6)): {OTHER}"
    )


def test_an_attention_pool_is_read(make_timm):
    model = make_timm("vit_base_patch16_siglip_224").train()
    reader = AttentionReader(model)
    model(torch.rand(2, 3, 32, 48))
    row = reader.take().row
    assert row.shape == (2, 24)
    assert torch.allclose(row.sum(1), torch.ones(2), atol=1e-5)  # no class token that takes a part


def test_data_parallel_over_several_devices_is_refused(vit):
    wrapped = nn.DataParallel(vit.model())
    AttentionReader(wrapped).detach()  # over none, here, or one
    wrapped.device_ids = [0, 1]
    assert refusal(wrapped) == (
        "nn.DataParallel runs copies of the model, which are not read; use DistributedDataParallel: one process per "
        "device, started with torchrun"
    )
