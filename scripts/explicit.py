"""Attention as a model forms it in full, with nothing of the reader: what reading is compared with.

A copy of the model runs with fused attention off in the module in question, and its softmax is overheard; modules that
have no such switch are asked for their weights (nn.MultiheadAttention), run as their eager twin (transformers), or
computed from their own projections (the class-attention head).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transmix.attention import ClassAttentionHead


def sharpen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model weights under which attention is far from uniform and every block matters, and no randomness."""
    for module in model.modules():
        for chance in ("p", "drop_prob"):  # of dropout, and of stochastic depth
            if isinstance(getattr(module, chance, None), float):
                setattr(module, chance, 0.0)
    heads = [name for name, module in model.named_modules() if isinstance(module, ClassAttentionHead)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 0:
                continue
            scale = 1.2 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.02
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if name.endswith("weight") and weight.ndim == 1:  # of a norm
                weight.add_(1)
            in_head = any(name.startswith(f"{head}.") for head in heads)  # its token sees itself: less, or nothing else
            if any(part in name for part in ("attn", "attention")) and not in_head:
                weight.mul_(1.5)
            if "gamma" in name or "lambda" in name:
                weight.fill_(0.5)
            if any(part in name for part in ("cls_token", "class_token", "latent")):
                weight.mul_(2 if in_head else 7)
            if name.startswith("attn_pool.") and weight.ndim > 1:
                weight.mul_(2)
    return model


def explicit_attention(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """Return the softmax (B, G, L, S) that the module called `name` forms in one forward of a copy of the model."""
    model = copy.deepcopy(model)
    module = model.get_submodule(name)
    if hasattr(getattr(model, "config", None), "hidden_size"):
        model.set_attn_implementation("eager")  # type: ignore[operator]
        return model(images, output_attentions=True).attentions[-1].detach()
    if isinstance(module, nn.MultiheadAttention):
        tokens, *_ = _inputs(model, module, images)
        return module(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)[1].detach()
    if all(hasattr(module, part) for part in ("query", "key", "heads")):
        (tokens,) = _inputs(model, module, images)
        return _of_projections(module, tokens)
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]
    with _overheard(module) as matrices:
        model(images)
    if len(matrices) != 1:
        raise RuntimeError(f"{name} of {type(model).__name__} formed {len(matrices)} softmaxes where one was expected")
    return matrices[0].detach()


def _of_projections(module: Any, tokens: Tensor) -> Tensor:
    asked, keys = module.query(tokens[:, 0]), module.key(tokens)
    batch, count, width = keys.shape
    asked, keys = asked.view(batch, module.heads, -1).double(), keys.view(batch, count, module.heads, -1).double()
    scores = torch.einsum("bgd,bsgd->bgs", asked, keys) / (width // module.heads) ** 0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights[:, :, None].float().detach()


def _inputs(model: nn.Module, module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    seen: list[tuple[Tensor, ...]] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    model(images)
    hook.remove()
    (inputs,) = seen
    return inputs


@contextmanager
def _overheard(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the results of softmax while `module` runs; more than its attention's would be an error."""
    matrices: list[Tensor] = []
    softmax = torch.Tensor.softmax

    def spy(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        matrices.append(softmax(scores, *args, **kwargs))
        return matrices[-1]

    module.register_forward_pre_hook(lambda *_: setattr(torch.Tensor, "softmax", spy))
    module.register_forward_hook(lambda *_: setattr(torch.Tensor, "softmax", softmax), always_call=True)
    try:
        yield matrices
    finally:
        torch.Tensor.softmax = softmax  # type: ignore[method-assign]
