"""A class-attention head in place of the average pooling: for models that have no class token."""

import copy
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transmix.attention.error import AttentionError

HEAD_WIDTH = 64
"""Channels per attention head, as in ViT, DeiT and CaiT."""


class ClassAttentionHead(nn.Module):
    """One class-attention block: a learned class token looks at the features once and becomes the pooled feature.

        token  = token + Attention(norm([token, features]))      the token is the only query
        pooled = token + MLP(norm(token))

    Args:
        width: C, channels of the features.
        heads: G; None: chosen for about 64 channels per head.
        mlp_ratio: hidden width of the MLP divided by C; 0: no MLP.
        keep_axes: return (B, C, 1, 1), as the average pooling of torchvision's models does, instead of (B, C).

    Raises:
        ValueError: heads that do not divide the width.

    Source: Touvron et al., CaiT (ICCV 2021), section 3: the class-attention layer.
    """

    def __init__(self, width: int, heads: int | None = None, mlp_ratio: float = 4.0, keep_axes: bool = False):
        super().__init__()
        self.keep_axes = keep_axes
        if heads is None:
            heads = next(count for count in range(max(1, width // HEAD_WIDTH), 0, -1) if width % count == 0)
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.width = width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.attn = _ClassAttention(width, heads)
        hidden = int(width * mlp_ratio)
        self.norm_mlp = nn.LayerNorm(width) if hidden else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) if hidden else None
        for name, weight in self.named_parameters():
            if name == "cls_token" or (name.endswith("weight") and "norm" not in name):
                nn.init.trunc_normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, features: Tensor) -> Tensor:
        """Pool features (B, P, C), (B, C, h, w) or (B, h, w, C) to (B, C)."""
        patches = as_patches(features, self.width)
        token = self.cls_token.expand(len(patches), -1, -1)
        token = token + self.attn(self.norm(torch.cat([token, patches], 1)))
        if self.mlp is not None:
            token = token + self.mlp(self.norm_mlp(token))
        return token.transpose(1, 2)[..., None] if self.keep_axes else token[:, 0]

    def cost(self, patches: int) -> dict[str, int]:
        """Return what the head adds to a model: "parameters", and "flops" of a forward per image of P patches.

        A multiplication with its addition counts as two; norms, biases and the softmax are left out.
        """
        asked = self.attn.query.weight.numel() + self.attn.proj.weight.numel()
        if self.mlp is not None:
            asked += sum(layer.weight.numel() for layer in self.mlp if isinstance(layer, nn.Linear))
        seen = self.attn.key.weight.numel() + self.attn.value.weight.numel() + 2 * self.width
        parameters = sum(weight.numel() for weight in self.parameters())
        return {"parameters": parameters, "flops": 2 * (asked + seen * (patches + 1))}

    def extra_repr(self) -> str:
        """Return width, heads and the parameters it adds."""
        return f"{self.width}, heads={self.attn.heads}, adds {self.cost(0)['parameters']:,} parameters"


class _ClassAttention(nn.Module):
    """Attention with one query, the first token; (B, 1 + P, C) -> (B, 1, C)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            layer(part).reshape(len(part), -1, self.heads, part.shape[2] // self.heads).transpose(1, 2)
            for layer, part in ((self.query, tokens[:, :1]), (self.key, tokens), (self.value, tokens))
        )
        looked = F.scaled_dot_product_attention(query, key, value)
        return self.proj(looked.transpose(1, 2).flatten(2))


def as_patches(features: Tensor, width: int) -> Tensor:
    """Return features (B, P, C), (B, C, h, w) or (B, h, w, C) as (B, P, C), patches in row-major order.

    Raises:
        AttentionError: another shape, or an ambiguous channel axis.
    """
    if features.ndim == 3 and features.shape[2] == width:
        return features
    if features.ndim == 4 and (features.shape[1] == width) != (features.shape[3] == width):
        return features.flatten(2).transpose(1, 2) if features.shape[1] == width else features.flatten(1, 2)
    wanted = f"expected features with {width} channels, (batch, patches, channels) or with two spatial axes"
    raise AttentionError(f"{wanted}, got {tuple(features.shape)}")


def with_class_attention(model: nn.Module, *, heads: int | None = None, mlp_ratio: float = 4.0) -> nn.Module:
    """Replace a model's average pooling by a class-attention head, so that TransMix can read its attention.

    The backbone, its weights and its classifier stay; the head comes before the classifier, with random weights.
    timm's parameter groups stay too: the head is in the last group (no layer decay); its token and norms get the weight
    decay of other tokens and norms. `model.class_attention.cost(patches)` (torchvision: `model.avgpool.cost`) returns
    its parameters and FLOPs.

    Args:
        model: a timm model (Swin, PVTv2, Twins, MaxViT, ConvNeXt, an average-pooled ViT, ...) or one of torchvision's
            that ends in `avgpool` (Swin, ConvNeXt, ResNet); it is changed in place, as torch's own converters do.
        heads: attention heads; None: of 64 channels each.
        mlp_ratio: hidden width of the block's MLP divided by its width; 0: no MLP.

    Returns:
        The model.

    Raises:
        AttentionError: the model already has such a head, uses a class token, has no pooling or several feature
            tensors; or it is a wrapper around a model.

    Example:
        >>> model = with_class_attention(timm.create_model("swin_tiny_patch4_window7_224"))
        >>> tm = transmix.TransMix(model)

    Source: the idea of CA-Swin in Chen et al., TransMix (CVPR 2022), section 4.5. Differs: the paper's code for it was
    not released; here the block is added to a complete backbone, so that pretrained weights can be loaded.
    """
    reason = why_no_head(model)
    if reason is not None:
        raise AttentionError(reason)
    weight, one = next(model.parameters()), cast(Any, model)
    if is_timms(model):
        one.class_attention = head = ClassAttentionHead(one.num_features, heads, mlp_ratio)
        # A subclass, made on the fly, and not a wrapper: names of weights, parameter groups and `isinstance` stay.
        model.__class__ = _with_head(type(model))
    else:
        width = cast(nn.Linear, _classifier(one)).in_features
        one.avgpool = head = ClassAttentionHead(width, heads, mlp_ratio, keep_axes=True)
    head.to(weight.device, weight.dtype).train(model.training)
    return model


def why_no_head(model: nn.Module) -> str | None:
    """Return why `with_class_attention` rejects a model; None if it accepts it. Does not change the model."""
    kind = type(model).__name__
    if any(isinstance(module, ClassAttentionHead) for module in model.modules()):
        return f"{kind} has a class-attention head already"
    if is_timms(model):
        pool = getattr(model, "global_pool", None)
        if pool in ("token", "map") or getattr(model, "attn_pool", None) is not None or kind == "CoaT":
            why = "nothing is averaged that a head could replace"
            return f"{kind} predicts from a class token or an attention pool already (global_pool={pool!r}): {why}"
        return _try(model)
    pool = getattr(model, "avgpool", None)
    if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1)) and _classifier(model):
        return None
    if hasattr(model, "forward_head"):
        return f"{kind} is a wrapper around a model: put the head into that model before it is wrapped"
    why = "expected a timm model, or torchvision's 'avgpool'"
    return f"{kind} has no pooling that a class-attention head could replace: {why}"


def is_timms(model: nn.Module) -> bool:
    """Whether a model is one of timm's, whose features and head can be run apart."""
    # Asked of the class: wrappers (torch.compile, PEFT) hand over the attributes of the model inside.
    return all(hasattr(type(model), name) for name in ("forward_features", "forward_head"))


def _try(model: Any) -> str | None:
    """Run a model with a head once on fake tensors; return why the head cannot pool its features."""
    kind, calls = type(model), []
    double = copy.copy(model)  # shares the weights; what is put in its place is put into the double alone
    double.__dict__.pop("forward", None)
    with torch.device("meta"):
        head = ClassAttentionHead(model.num_features)
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    double.__dict__["_modules"] = {**model._modules, "class_attention": head}
    double.__class__ = _with_head(kind)
    weights = {name: weight.to("meta") for name, weight in (*double.named_parameters(), *double.named_buffers())}
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    head.to(dtype)
    for size in _sizes(model):
        try:
            with torch.no_grad():
                torch.func.functional_call(double, weights, torch.empty(2, *size, device="meta", dtype=dtype))
        except AttentionError as error:
            return str(error)
        except Exception:  # images of another size, or code that needs numbers: it tells nothing
            continue
        if not calls:
            why = "its forward does not come to forward_head, where a head would pool them. Use a model that classifies"
            return f"{kind.__name__} never pools its features: {why}"
        return None
    return None


def _sizes(model: Any) -> list[tuple[int, int, int]]:
    """Return sizes (C, H, W) of images that a timm model may take, the likeliest first."""
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    told = [getattr(getattr(model, "patch_embed", None), "img_size", None)]
    told += [(getattr(model, "pretrained_cfg", None) or {}).get("input_size", (None,))[1:], 224, 256]
    pairs = [(side, side) if isinstance(side, int) else tuple(side) for side in told if side]
    return [(channels, height, width) for height, width in pairs]


@cache
def _with_head(kind: type) -> type:
    return type(f"{kind.__name__}WithClassAttention", (_WithClassAttention, kind), {})


class _WithClassAttention:
    """Comes before a timm model's class: pools by class attention, then lets the model's own head do the rest."""

    def forward_head(self: Any, x: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        kind = type(self).__mro__[2].__name__
        x = kwargs.pop("patches", x)  # as NaFlexViT names it
        if kwargs.get("patch_valid") is not None:
            why = "one box mask does not fit all. Give images (B, C, H, W) of one size"
            raise AttentionError(f"{kind} was given patches of images of different sizes, some of them padding: {why}")
        if not isinstance(x, Tensor):
            what = f"{kind}'s features are a {type(x).__name__} of {len(x)}, each with its own pooling"
            raise AttentionError(f"{what}: one head cannot replace them. Use another model")
        prefix = getattr(self, "num_prefix_tokens", None) or 0
        pooled = self.class_attention(x[:, prefix:] if x.ndim == 3 else x)
        # The model's own pooling of one patch is that patch: what comes after the pooling stays the model's code.
        if x.ndim == 3:
            alone = pooled[:, None].expand(-1, prefix + 1, -1)
        else:
            alone = pooled[:, :, None, None] if x.shape[1] == pooled.shape[1] else pooled[:, None, None]
        return super().forward_head(alone, *args, **kwargs)  # type: ignore[misc]

    def no_weight_decay(self: Any) -> set[str]:
        inherited = getattr(super(), "no_weight_decay", set)
        return set(inherited()) | {"class_attention.cls_token"}

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        # The class has no name in any module: a copy or a pickle makes it again from the model's own.
        return _empty_with_head, (type(self).__mro__[2],), self.__dict__


def _empty_with_head(kind: type) -> nn.Module:
    made: Any = _with_head(kind)
    return made.__new__(made)


def _classifier(model: Any) -> nn.Linear | None:
    """Return the linear layer that comes after torchvision's pooling."""
    modules = list(model.modules())
    after = modules[modules.index(model.avgpool) :]
    return next((module for module in after if isinstance(module, nn.Linear)), None)
