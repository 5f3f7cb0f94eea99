"""Rollout: carry one number per token through the attention of every block, without forming attention.

Each block replaces the numbers l by (A l + l) / 2, where A (N, N) is the mean of its attention over heads. Fused
attention computes A l when it is given l as its values, so no (N, N) tensor is formed.

Source: Xiao et al., Token-Label Alignment for Vision Transformers (ICCV 2023), which carries a distribution over K
classes at each token. Rows of A sum to 1, so one number a token says the same.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transmix.attention.error import AttentionError
from transmix.attention.find import has_one_query
from transmix.attention.row import SOFTMAX, heads_of_multi_head_attention, is_over_keys, without_autocast

SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class Call(NamedTuple):
    """One call of attention: what the fused function was given, or the softmax that a module formed itself.

    Attributes:
        query: (B, G, N, D).
        key: (B, G, N, D); with fewer heads if they are shared.
        mask: added to the scores, or bool; broadcast to (B, G, N, N).
        scale: of the scores; None: 1 / sqrt(D).
        formed: (B, G, N, N), the softmax, where the module forms it.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    mask: Tensor | None = None
    scale: float | None = None
    formed: Tensor | None = None


class Calls(TorchFunctionMode):
    """Record the calls of attention that a module's forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: list[Call] = []
        self.formed: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(SDPA_ARGUMENTS, args, strict=False)) | kwargs
            if given.get("is_causal"):
                raise AttentionError("attention is causal: the first token sees nothing but itself")
            mask = given.get("attn_mask")
            # Aliases, no copies: autograd keeps queries and keys for the backward anyway.
            self.fused.append(
                Call(
                    given["query"].detach(),
                    given["key"].detach(),
                    None if mask is None else mask.detach(),
                    given.get("scale"),
                )
            )
        elif func is F.multi_head_attention_forward:
            self.fused.append(Call(*heads_of_multi_head_attention(*args, **kwargs)))
        output = func(*args, **kwargs)
        if func in SOFTMAX and is_over_keys(output, args, kwargs):
            self.formed.append(Call(formed=output.detach()))
        return output


class Rollout:
    """The attention of every block in one forward, ready to carry numbers at the tokens.

    Attributes:
        prefix: tokens before the patches; the first is the class token.
        grid: (h, w) of the patches.
        extent: (height, width) in pixels that the grid covers.
    """

    def __init__(
        self, calls: Sequence[Call | None], prefix: int, grid: tuple[int, int], extent: tuple[int, int], rows: slice
    ):
        self.calls, self.prefix, self.grid, self.extent, self.rows = calls, prefix, grid, extent, rows

    def shares(self, tokens: Tensor) -> Tensor:
        """Return the class token's number after all blocks.

        Args:
            tokens: (B, N) float32, the numbers before the first block.

        Returns:
            (B,) float32.

        Raises:
            AttentionError: a block whose attention was not seen, or is over other tokens.
        """
        with torch.no_grad(), without_autocast(tokens.device):
            for index, call in enumerate(self.calls):
                tokens = (self._attend(index, call, tokens.float()) + tokens) / 2
            return tokens[:, 0]

    def _attend(self, index: int, call: Call | None, tokens: Tensor) -> Tensor:
        """Return A l of one block, (B, N)."""
        if call is None:
            raise AttentionError(f"block {index} computed no attention that can be seen: tokens cannot be followed")
        of_queries = call.query if call.formed is None else call.formed
        assert of_queries is not None
        shape = (of_queries.shape[0], of_queries.shape[2])
        if call.formed is not None:
            weights = call.formed[self.rows].float().mean(1)
            if weights.shape[1:] == (tokens.shape[1],) * 2:
                return (weights @ tokens[:, :, None])[:, :, 0]
        elif shape[1] == tokens.shape[1] and call.key is not None:
            return self._fused(call, tokens)
        raise AttentionError(
            f"block {index} attends over {shape[1]} tokens, the last over {tokens.shape[1]}: tokens that are merged or "
            f"cut into windows on the way cannot be followed. Use a ViT whose blocks all attend over the same tokens"
        )

    def _fused(self, call: Call, tokens: Tensor) -> Tensor:
        query, key = (one[self.rows].float() for one in (call.query, call.key))  # type: ignore[index]
        batch, heads, count, width = query.shape
        if key.shape[1] != heads:
            key = key.repeat_interleave(heads // key.shape[1], dim=1)
        mask = call.mask
        if mask is not None:
            mask = mask if mask.ndim < 4 or len(mask) == 1 else mask[self.rows]
            mask = mask if mask.dtype == torch.bool else mask.float()
        # Kernels want values of a certain width: CUDA's a multiple of 4, the CPU's that of the queries. Others would
        # fall back to a path that forms (N, N).
        values = tokens.new_zeros(batch, 1, count, 8 if query.is_cuda else width)
        values[..., 0] = tokens[:, None]
        values = values.expand(-1, heads, -1, -1)
        attended = F.scaled_dot_product_attention(query, key, values, attn_mask=mask, scale=call.scale)
        return attended[..., 0].mean(1)


def blocks_of(model: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules that attend in the blocks before the last, first to last.

    Args:
        model: unwrapped.
        name: dotted name of the attention in the last block, such as "blocks.11.attn".

    Raises:
        AttentionError: no stack of blocks that are alike.
    """
    parts = name.split(".")
    for at in [] if has_one_query(name) else reversed(range(len(parts))):
        stack = model.get_submodule(".".join(parts[:at]))
        names = [child for child, _ in stack.named_children()]
        if isinstance(stack, nn.ModuleList | nn.Sequential) and names[-1] == parts[at]:
            with suppress(AttributeError):  # a block of another kind
                return [model.get_submodule(".".join((*parts[:at], one, *parts[at + 1 :]))) for one in names[:-1]]
    raise AttentionError(
        f"{type(model).__name__} has no stack of blocks that end in {name!r}: its tokens cannot be followed from "
        f"block to block"
    )
