"""Attention rolled out over the layers: how much of each patch reaches the class token through all of them."""

import torch
from torch import Tensor

from transmix.attention import AttentionError
from transmix.visual.look import Look


def rollout(looked: Look, residual: float = 0.5) -> Tensor:
    """Roll attention out over all layers that attend over the whole image, and return the class token's row (B, P).

    A layer passes on `residual` of each token as it is and takes the rest from where it looks:

        Ahat_l = residual * I + (1 - residual) * mean over heads of A_l
        R      = Ahat_L ... Ahat_2 Ahat_1                                    the class token's row, patch columns

    Where the class token alone asks (CaiT, XCiT, attention pools, class-attention heads), Ahat is the identity but for
    its row. Before a class token joins, tokens mix among themselves. Only the wanted row is multiplied through, from
    the last layer to the first. It is not renormalised: what is missing to 1 came from prefix tokens.

    Args:
        looked: With maps.
        residual: Share of the skip connection, 0..1.

    Raises:
        AttentionError: A layer attends to pooled keys or other tokens, over which there is nothing to roll out.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers (ACL 2020, arXiv 2005.00928), section 3.1.
    """
    patches = looked.attention.shape[1]
    means = [weights.double().mean(1) for weights in looked.maps]
    for number, weights in enumerate(means):
        queries, keys = weights.shape[-2:]
        if keys < patches or queries not in (1, keys):
            raise AttentionError(
                f"layer {number} looks from {queries} tokens at {keys}, not from the {patches} patches at themselves: "
                f"attention cannot be rolled out over it; show heads or layers instead"
            )
    own = int(looked.own_token)
    tokens = max(weights.shape[-1] - (own if weights.shape[-2] == 1 else 0) for weights in means)
    token = torch.ones(len(looked.attention), 1, dtype=torch.float64)  # what is left of the one that alone asks
    row = torch.zeros(len(token), tokens, dtype=torch.float64)
    if means[-1].shape[-2] > 1:
        token, row[:, 0] = token * 0, 1.0
    for weights in reversed(means):
        if weights.shape[-2] > 1:
            moved = row[:, -weights.shape[-1] :].clone()
            row[:, -weights.shape[-1] :] = residual * moved + (1 - residual) * (moved[:, None] @ weights)[:, 0]
        else:
            seen = weights[:, 0, own:]
            row[:, -seen.shape[1] :] += (1 - residual) * token * seen
            token = token * (residual + (1 - residual) * weights[:, 0, :own].sum(1, keepdim=True))
    return row[:, -patches:].float()
