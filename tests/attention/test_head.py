"""A class-attention head in place of the pooling: the backbone stays what it was, and the head is read."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transmix import AttentionError, AttentionReader, TransMix
from transmix.attention import ClassAttentionHead, with_class_attention
from transmix.mixing.cutmix import cutmix

timm = pytest.importorskip("timm")
CLASSES = 5

SWIN = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 4}
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
MODELS = {  # name: options, image size, grid
    "swin_tiny_patch4_window7_224": ({**SWIN, "img_size": (32, 64)}, (32, 64), (4, 8)),
    "swinv2_tiny_window8_256": ({**SWIN, "img_size": (32, 64)}, (32, 64), (4, 8)),
    "pvt_v2_b0": ({"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 32), "num_heads": (1, 1, 1, 2)}, (96, 170), (3, 6)),
    "twins_svt_small": (
        {"depths": (1, 1, 1, 2), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 1, 1, 2)},
        (64, 96),
        (2, 3),
    ),
    "davit_tiny": ({"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2)}, (64, 96), (8, 12)),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 32)}, (64, 96), (2, 3)),
    "test_coatnet": ({"img_size": (64, 96)}, (64, 96), (2, 3)),
    "hiera_tiny_224": ({"img_size": (64, 96), "embed_dim": 16, "stages": (1, 1, 1, 1)}, (64, 96), (2, 3)),
    "levit_128s": ({"img_size": 64}, (64, 64), (1, 1)),
    "vit_base_patch16_siglip_gap_224": ({**VIT, "img_size": (32, 48)}, (32, 48), (4, 6)),
    "vit_small_patch16_dinov3": ({**VIT, "img_size": (32, 48)}, (32, 48), (4, 6)),
    "deit_tiny_patch16_224": ({**VIT, "img_size": (32, 48), "global_pool": "avg"}, (32, 48), (4, 6)),
    "resnet18": ({}, (64, 90), (2, 3)),
    "mobilenetv3_small_050": ({}, (64, 90), (2, 3)),
}


def make(name):
    options, size, grid = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **options)
    with torch.no_grad():  # some start with a classifier of zeros, which shows nothing
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return model, torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)), grid


@pytest.fixture(params=MODELS)
def plain(request):
    """Every average-pooled model in turn: model, images, grid."""
    return make(request.param)


def spread(head):
    """Give a head weights under which it looks somewhere."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(torch.randn(weight.shape, generator=rng) * 0.3)
    return head


def pooled_by_hand(head, patches):
    """What the head makes of (B, P, C), in float64, and the row it looks with: written anew from the formulas."""
    weights = {name: weight.double() for name, weight in head.state_dict().items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    token = weights["cls_token"].expand(len(patches), -1, -1)
    seen = norm(torch.cat([token, patches.double()], 1), "norm")
    heads, width = head.attn.heads, head.width // head.attn.heads
    looked, rows = [], []
    for index in range(heads):
        part = slice(index * width, (index + 1) * width)
        query, key, value = (linear(seen, f"attn.{name}")[..., part] for name in ("query", "key", "value"))
        row = (query[:, :1] @ key.transpose(1, 2) / math.sqrt(width)).softmax(-1)
        looked.append(row @ value)
        rows.append(row[:, 0])
    token = token + linear(torch.cat(looked, -1), "attn.proj")
    if head.mlp is not None:
        token = token + linear(nn.functional.gelu(linear(norm(token, "norm_mlp"), "mlp.0")), "mlp.2")
    return token[:, 0], torch.stack(rows).mean(0)[:, 1:]


@pytest.mark.parametrize("mlp_ratio", [4.0, 0.0, 0.5])
@pytest.mark.parametrize("layout", ["patches", "channels first", "channels last"])
def test_the_head_is_the_formula(mlp_ratio, layout):
    head = spread(ClassAttentionHead(24, heads=3, mlp_ratio=mlp_ratio))
    patches = torch.randn(2, 6, 24)
    features = {
        "patches": patches,
        "channels first": patches.transpose(1, 2).reshape(2, 24, 2, 3),
        "channels last": patches.reshape(2, 2, 3, 24),
    }[layout]
    expected, _ = pooled_by_hand(head, patches)
    torch.testing.assert_close(head(features).double(), expected, rtol=1e-5, atol=1e-5)
    channels = 1 if layout == "channels first" else -1
    assert not torch.allclose(head(features.flip(channels)).double(), expected, atol=1e-2)  # the tolerance tells


def test_every_model_keeps_its_weights_and_gives_logits(plain):
    model, images, _ = plain
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    returned = with_class_attention(model)
    assert returned is model
    after = model.state_dict()
    assert [name for name in after if not name.startswith("class_attention.")] == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    added = sum(weight.numel() for name, weight in after.items() if name.startswith("class_attention."))
    assert added == model.class_attention.cost(1)["parameters"] > 0
    logits = model.eval()(images)
    assert logits.shape == (2, CLASSES)
    hidden = model.forward_head(model.forward_features(images), pre_logits=True)
    assert len(hidden) == 2
    assert hidden.ndim in (2, 4)
    assert isinstance(model, type(model).__mro__[2])


def test_every_head_is_read_with_its_grid(plain):
    model, images, grid = plain
    model = with_class_attention(model)
    spread(model.class_attention)
    seen = []
    model.class_attention.attn.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    reader = AttentionReader(model.train())
    model(images)
    row = reader.take().row
    assert reader.name == "class_attention.attn"
    assert reader.grid == grid
    assert row.shape == (2, grid[0] * grid[1])
    attn = model.class_attention.attn
    tokens = seen[0].double()
    query, key = (tokens @ layer.weight.double().T + layer.bias.double() for layer in (attn.query, attn.key))
    query, key = (x.reshape(2, -1, attn.heads, x.shape[2] // attn.heads).transpose(1, 2) for x in (query, key))
    expected = (query[:, :, :1] @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(-1)[:, :, 0].mean(1)[:, 1:]
    torch.testing.assert_close(row.double(), expected, rtol=0, atol=1e-5)


def test_what_follows_the_pooling_is_the_models_own():
    for name, rest in {
        "convnext_atto": lambda model, x: model.head.fc(model.head.norm(x[:, :, None, None])[:, :, 0, 0]),
        "swin_tiny_patch4_window7_224": lambda model, x: model.head.fc(x),
        "vit_base_patch16_siglip_gap_224": lambda model, x: model.head(model.fc_norm(x)),
        "pvt_v2_b0": lambda model, x: model.head(x),
    }.items():
        model, images, _ = make(name)
        model = with_class_attention(model).eval()
        spread(model.class_attention)
        pooled = model.class_attention(model.forward_features(images))
        torch.testing.assert_close(model(images), rest(model, pooled))


def test_prefix_tokens_are_not_looked_at():
    model, images, _ = make("vit_small_patch16_dinov3")
    model = with_class_attention(model).eval()
    features = model.forward_features(images)
    changed = features.clone()
    changed[:, : model.num_prefix_tokens] = 9
    assert model.num_prefix_tokens == 5
    assert torch.equal(model.forward_head(features), model.forward_head(changed))
    changed[:, model.num_prefix_tokens] = 9
    assert not torch.equal(model.forward_head(features), model.forward_head(changed))


def groups_of(model, **settings):
    from timm.optim import param_groups_layer_decay

    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        names[id(weight)]: (group["weight_decay"], group["lr_scale"])
        for group in param_groups_layer_decay(model, **settings)
        for weight in group["params"]
    }


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "pvt_v2_b0", "deit_tiny_patch16_224", "convnext_atto"]
)
def test_timms_parameter_groups_stay_and_the_head_joins_the_last(name):
    model, _, _ = make(name)
    settings = {
        "weight_decay": 0.05,
        "no_weight_decay_list": model.no_weight_decay() if hasattr(model, "no_weight_decay") else (),
        "layer_decay": 0.5,
    }
    before = groups_of(model, **settings)
    model = with_class_attention(model)
    settings["no_weight_decay_list"] = model.no_weight_decay()
    after = groups_of(model, **settings)
    assert {key: value for key, value in after.items() if not key.startswith("class_attention")} == before
    assert after["class_attention.attn.query.weight"] == (0.05, 1.0)
    assert after["class_attention.cls_token"] == after["class_attention.norm.weight"] == (0.0, 1.0)
    assert min(scale for _, scale in before.values()) < 1  # there is layer decay to see


def test_a_copy_and_a_pickle_are_models_of_their_own(plain):
    model, images, _ = plain
    model = with_class_attention(model).eval()
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for double in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert type(double) is type(model)
        assert torch.equal(double(images), model(images))
        with torch.no_grad():
            double.class_attention.cls_token.add_(1)
        assert not torch.equal(double(images), model(images))


@pytest.mark.parametrize("mlp_ratio", [4.0, 0.0])
def test_the_cost_is_what_torch_counts(mlp_ratio):
    head, patches = ClassAttentionHead(128, mlp_ratio=mlp_ratio), 49
    assert head.attn.heads == 2
    with FlopCounterMode(display=False) as counter:
        head(torch.rand(1, patches, 128))
    cost = head.cost(patches)
    assert cost["parameters"] == sum(weight.numel() for weight in head.parameters())
    assert cost["flops"] == counter.get_total_flops()
    assert f"adds {cost['parameters']:,} parameters" in repr(head)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (176, 2), (96, 1), (24, 1), (448, 7), (190, 2)])
def test_heads_are_of_64_channels_or_nearly(width, heads):
    assert ClassAttentionHead(width).attn.heads == heads


def test_the_head_follows_the_models_type_and_mode():
    model, _, _ = make("pvt_v2_b0")
    model = with_class_attention(model.to(torch.bfloat16).eval())
    assert {weight.dtype for weight in model.class_attention.parameters()} == {torch.bfloat16}
    assert not model.class_attention.training


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_it_trains_under_compile_and_autocast_with_labels_by_attention(name):
    model, images, grid = make(name)
    model = with_class_attention(model).train()
    tm = TransMix(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixed = cutmix(images, torch.tensor([0, 1]), (0, 0, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tm.loss(compiled(mixed.images), mixed)
    loss.backward()
    assert all(weight.grad is not None for weight in model.class_attention.parameters())
    assert tm.reader.grid == grid


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "resnet18"])
def test_torchvisions_pooling_is_replaced(name):
    models = pytest.importorskip("torchvision.models")
    model = {
        "swin_t": lambda: models.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=CLASSES),
        "convnext_tiny": lambda: models.ConvNeXt(
            [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)], num_classes=CLASSES
        ),
        "resnet18": lambda: models.resnet18(num_classes=CLASSES),
    }[name]()
    before = list(model.state_dict())
    model = with_class_attention(model, mlp_ratio=0)
    assert [key for key in model.state_dict() if not key.startswith("avgpool.")] == before
    tm = TransMix(model.train())
    mixed = tm.mix(torch.randn(2, 3, 64, 96), torch.tensor([0, 1]))
    tm.loss(model(mixed.images), mixed).backward()
    assert tm.reader.name == "avgpool.attn"
    assert tm.reader.grid == {"swin_t": (8, 12), "convnext_tiny": (8, 12), "resnet18": (2, 3)}[name]
    assert model.avgpool.cls_token.grad is not None


REFUSED = {
    "a class token in use": (
        lambda: timm.create_model("deit_tiny_patch16_224", **VIT),
        "VisionTransformer predicts from a class token or an attention pool already (global_pool='token'): nothing is "
        "averaged that a head could replace",
    ),
    "an attention pool": (
        lambda: timm.create_model("vit_base_patch16_siglip_224", **VIT),
        "VisionTransformer predicts from a class token or an attention pool already (global_pool='map'): nothing is "
        "averaged that a head could replace",
    ),
    "a second head": (
        lambda: with_class_attention(make("pvt_v2_b0")[0]),
        "PyramidVisionTransformerV2WithClassAttention has a class-attention head already",
    ),
    "a net without pooling": (
        lambda: nn.Sequential(nn.Linear(2, 2)),
        "Sequential has no pooling that a class-attention head could replace: expected a timm model, or torchvision's "
        "'avgpool'",
    ),
}


@pytest.mark.parametrize(("build", "text"), REFUSED.values(), ids=REFUSED)
def test_what_needs_no_head_or_has_no_place_for_one_is_refused(build, text):
    model = build()
    with pytest.raises(AttentionError) as error:
        with_class_attention(model)
    assert str(error.value) == text


def test_features_of_another_shape_are_refused():
    head = ClassAttentionHead(8)
    for shape in [(2, 4, 7), (2, 7, 3, 3), (2, 8, 3, 8), (2, 8)]:
        with pytest.raises(AttentionError) as error:
            head(torch.rand(shape))
        assert str(error.value) == (
            f"expected features with 8 channels, (batch, patches, channels) or with two spatial axes, got {shape}"
        )


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        ClassAttentionHead(16, heads=3)
