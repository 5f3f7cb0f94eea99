"""Attention weights that a fused function never forms, computed from the very arguments it was called with.

So q/k norms, rotary embeddings, masks, biases and scales are what the model used. For one query alone, that of the
class token, it costs B * G * N * D multiplications.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.attention.error import AttentionError

MULTI_HEAD_ARGUMENTS = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


def weights_of_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    queries: int | None = None,
) -> Tensor:
    """Return the softmax of the first `queries` queries (None: of all), before dropout: (B, G, L, S) float32, detached.

    Arguments are those of `torch.nn.functional.scaled_dot_product_attention`: query (B, G, L, D), key (B, G, S, D).

    Raises:
        AttentionError: a query that is not (B, G, L, D), or one query of a causal mask (it sees itself alone).
    """
    if query.ndim != 4:
        raise AttentionError(f"expected a query of shape (batch, heads, tokens, width), got {tuple(query.shape)}")
    if is_causal and query.shape[-2] > 1:
        if queries == 1:
            raise AttentionError("attention is causal: the first token sees nothing but itself")
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    # Under autocast the product and the softmax would be in half precision, whose rows do not sum to 1.
    with torch.no_grad(), without_autocast(query.device):
        asking, keys = query[:, :, :queries].detach().float(), key.detach().float()
        if enable_gqa:
            keys = keys.repeat_interleave(asking.shape[1] // keys.shape[1], dim=1)
        scores = asking @ keys.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if attn_mask is not None:
            mask = attn_mask[..., :queries, :].detach()
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()
        return scores.softmax(-1)


def weights_of_multi_head(*args: Any, queries: int | None = None, **kwargs: Any) -> Tensor:
    """Return what `weights_of_sdpa` does, for `nn.MultiheadAttention`.

    Arguments are those of `torch.nn.functional.multi_head_attention_forward`: query (L, B, E), key (S, B, E).

    Raises:
        AttentionError: as `heads_of_multi_head_attention`.
    """
    query, key, attn_mask = heads_of_multi_head_attention(*args, queries=queries, **kwargs)
    return weights_of_sdpa(query, key, key, attn_mask=attn_mask)


def heads_of_multi_head_attention(
    *args: Any, queries: int | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return queries (B, G, L, D), keys (B, G, S, D) and mask that `nn.MultiheadAttention` gives fused attention.

    Arguments are those of `torch.nn.functional.multi_head_attention_forward`; float32, detached.

    Raises:
        AttentionError: a variant that no vision model is known to use (bias_k, add_zero_attn, static keys, padding).
    """
    given: dict[str, Any] = dict(zip(MULTI_HEAD_ARGUMENTS, args, strict=False)) | kwargs
    query, key, heads, attn_mask = given["query"], given["key"], given["num_heads"], given.get("attn_mask")
    unusual = any(given.get(name) is not None for name in ("bias_k", "static_k", "key_padding_mask"))
    if unusual or given.get("add_zero_attn") or query.ndim != 3:
        what = "nn.MultiheadAttention with bias_k, add_zero_attn, static keys, key padding or unbatched input"
        raise AttentionError(f"{what} cannot be read")
    with torch.no_grad(), without_autocast(query.device):
        width, weight, bias = query.shape[-1], given["in_proj_weight"], given["in_proj_bias"]
        separate: Any = given.get("q_proj_weight"), given.get("k_proj_weight")
        weights = separate if weight is None else weight.split(width)[:2]
        biases = (None, None) if bias is None else bias.split(width)[:2]
        # The function shows neither its queries nor its keys: project them once more, of the queries the wanted ones.
        query_heads, key_heads = (
            F.linear(tokens.float(), of_tokens.float(), None if shift is None else shift.float())
            .unflatten(-1, (heads, -1))
            .permute(1, 2, 0, 3)
            for tokens, of_tokens, shift in zip((query[:queries], key), weights, biases, strict=True)
        )
        if attn_mask is not None:
            attn_mask = attn_mask[..., :queries, :]
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.unflatten(0, (-1, heads))
            if attn_mask.dtype == torch.bool:
                attn_mask = ~attn_mask  # True means "may not look" there, "may look" in sdpa
        return query_heads, key_heads, attn_mask


def without_autocast(device: torch.device) -> torch.autocast:
    """Turn autocast off for a while on a device."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)  # meta has none to turn off


FUSED = {F.scaled_dot_product_attention: weights_of_sdpa, F.multi_head_attention_forward: weights_of_multi_head}
"""Functions of torch that attend without showing their weights, and how to compute these."""

SOFTMAX = (torch.Tensor.softmax, torch.softmax, F.softmax)
"""Functions with which modules form attention themselves."""


def first_row(weights: Tensor) -> Tensor:
    """Return the first query's row of weights (B, G, L, S), mean over heads: (B, S) float32, detached."""
    return weights[:, :, 0].detach().float().mean(1)


def is_over_keys(weights: Tensor, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a softmax called with these arguments gave weights (B, G, L, S): one over the last of four axes."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return weights.ndim == 4 and axis in (-1, 3)
