"""Whole attention maps of every layer, for figures and studies. Slow: training reads one row instead."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transmix.attention.attach import readers_paused
from transmix.attention.error import AttentionError
from transmix.attention.eval_mode import eval_mode
from transmix.attention.find import unwrap
from transmix.attention.row import FUSED, SOFTMAX, is_over_keys

RANK = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 3}
"""Axes of a query in attention over the tokens of whole images; with more or fewer they are of windows."""

CHANNEL_ATTENTION = ("XCA", "ChannelAttention", "ChannelAttentionV2")
"""Modules of timm whose softmax runs over channels: XCiT's cross-covariance, DaViT's channel blocks."""


def attention_maps(model: nn.Module, images: Tensor, layers: str | int | Iterable[int] = "all") -> list[Tensor]:
    """Return the attention of every token, layer by layer. Runs one forward without gradient, in evaluation mode.

    Args:
        model: a timm, torchvision, Hugging Face or custom model; may be wrapped or compiled.
        images: (B, C, H, W), normalised for the model.
        layers: "all", or layer numbers in order of depth; negative counts from the end: -1 is the last.

    Returns:
        For each layer (B, G, N, N) float32, (query, key), rows sum to 1. If the class token is the only query (CaiT,
        XCiT, VOLO, attention pools, class-attention heads), the shape is (B, G, 1, N); pooled keys (PVT, MViT) make
        the last axis shorter. N is the layer's number of tokens, prefix tokens first. Layers that attend over
        channels or within windows are left out.

    Raises:
        AttentionError: no such layer, or none that attends over the whole image.

    Example:
        >>> last = attention_maps(model, images, layers=-1)[0][:, :, 0]  # (B, G, N): of the class token
    """
    bare = unwrap(model)
    maps = _Maps(len(images))

    def leave(*_: Any) -> None:  # a function that returns nothing: torch takes a hook's value for the module's output
        maps.inside.pop()

    over_channels = [module for module in bare.modules() if type(module).__name__ in CHANNEL_ATTENTION]
    hooks = [module.register_forward_pre_hook(lambda *_: maps.inside.append(1)) for module in over_channels]
    hooks += [module.register_forward_hook(leave, always_call=True) for module in over_channels]
    try:
        with eval_mode(bare), readers_paused(bare), torch.no_grad(), torch.compiler.set_stance("force_eager"), maps:
            bare(images)
    finally:
        for hook in hooks:
            hook.remove()
    return _chosen(maps.kept, layers, type(bare).__name__)


def _chosen(maps: list[Tensor], layers: str | int | Iterable[int], kind: str) -> list[Tensor]:
    if not maps:
        why = "only over windows or channels, or not at all"
        raise AttentionError(f"{kind} has no layer that attends over the whole image by softmax: {why}")
    if layers == "all":
        return maps
    wanted = [layers] if isinstance(layers, int) else list(layers)
    if not all(isinstance(index, int) and -len(maps) <= index < len(maps) for index in wanted):
        raise AttentionError(f"{kind} has {len(maps)} layers that attend over the whole image; there is no {layers!r}")
    return [maps[index] for index in wanted]  # type: ignore[index]


class _Maps(TorchFunctionMode):
    """Keep the attention over the tokens of whole images, from the torch functions of a whole forward."""

    def __init__(self, batch: int):
        super().__init__()
        self.batch = batch
        self.kept: list[Tensor] = []
        self.inside: list[int] = []  # one entry for each module over channels whose forward is running

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self.inside:
            weights = None
            if func in FUSED and (args[0] if args else kwargs["query"]).ndim == RANK[func]:
                weights = FUSED[func](*args, **kwargs)
            elif func in SOFTMAX and is_over_keys(output, args, kwargs):
                weights = output.float()
            if weights is not None and len(weights) == self.batch:  # else rows are windows of images
                self.kept.append(weights)
        return output
