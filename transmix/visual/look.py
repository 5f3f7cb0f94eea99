"""What a model looks at: every layer's whole maps, which of their columns are patches, and all layers rolled out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transmix.attention import AttentionError, AttentionReader, attention_maps
from transmix.attention.eval_mode import eval_mode


@dataclass(frozen=True, eq=False)
class Look:
    """What a model looked at in a batch of images.

    Attributes:
        attention: (B, P) float32, what the class prediction looked at: mean over the heads of the reader's row.
        grid: (h, w) of the patches, h * w = P.
        maps: per layer (B, G, N, N), or (B, G, 1, N) where the class token alone asks; empty if not asked for.
        own_token: whether the one that asks in (B, G, 1, N) is the first of the N itself; an attention pool is not.
    """

    attention: Tensor
    grid: tuple[int, int]
    maps: tuple[Tensor, ...] = ()
    own_token: bool = True

    @property
    def prefix(self) -> int:
        """Tokens before the patches in the last layer."""
        return self.maps[-1].shape[-1] - self.attention.shape[1]


def look(
    model: nn.Module,
    images: Tensor,
    *,
    maps: bool = True,
    module: nn.Module | str | None = None,
    prefix_tokens: int | None = None,
) -> Look:
    """Run a model in evaluation mode and return what it looked at, on the CPU.

    Args:
        model: Any that `AttentionReader` reads.
        images: (B, C, H, W) as the model takes them, normalised.
        maps: Also take every layer's whole maps; costs a second forward and B * G * N * N numbers a layer.
        module: As for `AttentionReader`, for models that it does not know.
        prefix_tokens: Number of tokens before the patches, as in `AttentionReader`.

    Raises:
        AttentionError: The model's attention cannot be read, or does not fit together.
    """
    reader = AttentionReader(model, module, prefix_tokens=prefix_tokens, training=False, eval=True)
    with reader, eval_mode(model), torch.no_grad():
        model(images)
        attention, grid, _ = reader.take(images)
        own_token = not reader.name.endswith("attn_pool")
    found = tuple(one.cpu() for one in attention_maps(model, images)) if maps else ()
    return Look(attention.cpu(), (int(grid[0]), int(grid[1])), found, own_token)


def head_rows(looked: Look, layer: int = -1) -> Tensor:
    """Return what each head of one layer looks at on behalf of the class token: (B, G, P).

    Args:
        looked: With maps.
        layer: Number of the layer, in order of depth from 0; negative from the end.

    Raises:
        AttentionError: No such layer, or one in which no class token asks.
    """
    layers = len(looked.maps)
    if not -layers <= layer < layers:
        raise AttentionError(
            f"the model has {layers} layers that attend over the whole image, 0 to {layers - 1}; there is no {layer}"
        )
    number = layer % layers
    readable = dict(layer_rows(looked))
    if number not in readable:
        raise AttentionError(
            f"in layer {number} no class token looks at the {looked.grid[0]} x {looked.grid[1]} patches; it does in "
            f"{', '.join(map(str, readable))}"
        )
    return readable[number]


def layer_rows(looked: Look) -> list[tuple[int, Tensor]]:
    """Return the number of each layer in which the class token looks at the patches, and its rows (B, G, P)."""
    patches = looked.attention.shape[1]
    rows = []
    for number, weights in enumerate(looked.maps):
        queries, keys = weights.shape[-2:]
        asks = queries == 1 or (queries == keys and looked.prefix > 0)
        if asks and keys - patches == looked.prefix:
            rows.append((number, weights[:, :, 0, looked.prefix :]))
    return rows


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
