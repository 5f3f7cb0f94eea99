"""Attention of a model for figures: full maps of every layer, their patch columns, and attention rollout."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transmix.attention import AttentionError, AttentionReader, attention_maps
from transmix.attention.eval_mode import eval_mode


@dataclass(frozen=True, eq=False)
class Look:
    """Attention of a model over a batch of images.

    Attributes:
        attention: (B, P) float32, the reader's row: attention of the class prediction, mean over heads.
        grid: (h, w) of the patches, h * w = P.
        maps: per layer (B, G, N, N), or (B, G, 1, N) if the class token is the only query; empty if not requested.
        own_token: whether the query of (B, G, 1, N) is also the first of the N keys; false for an attention pool.
        extent: (height, width) in pixels of the images that the grid covers; None: the whole image.
    """

    attention: Tensor
    grid: tuple[int, int]
    maps: tuple[Tensor, ...] = ()
    own_token: bool = True
    extent: tuple[int, int] | None = None

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches in the last layer."""
        return self.maps[-1].shape[-1] - self.attention.shape[1]


def look(
    model: nn.Module,
    images: Tensor,
    *,
    maps: bool = True,
    module: nn.Module | str | None = None,
    prefix_tokens: int | None = None,
) -> Look:
    """Run a model in evaluation mode and return its attention, on the CPU.

    Args:
        model: Any model that `AttentionReader` supports.
        images: (B, C, H, W), normalised for the model.
        maps: Also return the full maps of every layer; costs a second forward and B * G * N * N numbers per layer.
        module: As in `AttentionReader`, for unknown models.
        prefix_tokens: Number of tokens before the patches, as in `AttentionReader`.

    Raises:
        AttentionError: The model's attention cannot be read, or the patch grids do not match.
    """
    reader = AttentionReader(model, module, prefix_tokens=prefix_tokens, training=False, eval=True)
    with reader, eval_mode(model), torch.no_grad():
        model(images)
        attention, grid, extent = reader.take(images)
        own_token = not reader.name.endswith("attn_pool")
    found = tuple(one.cpu() for one in attention_maps(model, images)) if maps else ()
    return Look(attention.cpu(), (int(grid[0]), int(grid[1])), found, own_token, (int(extent[0]), int(extent[1])))


def head_rows(looked: Look, layer: int = -1) -> Tensor:
    """Return the class token's attention in each head of one layer: (B, G, P).

    Args:
        looked: With maps.
        layer: Layer number, in order of depth from 0; negative counts from the end.

    Raises:
        AttentionError: No such layer, or a layer without a class token query.
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
            f"in layer {number} no class token attends to the {looked.grid[0]} x {looked.grid[1]} patches; it does in "
            f"{', '.join(map(str, readable))}"
        )
    return readable[number]


def layer_rows(looked: Look) -> list[tuple[int, Tensor]]:
    """Return layer number -> rows (B, G, P), for each layer in which the class token attends to the patches."""
    patches = looked.attention.shape[1]
    rows = []
    for number, weights in enumerate(looked.maps):
        queries, keys = weights.shape[-2:]
        asks = queries == 1 or (queries == keys and looked.prefix > 0)
        if asks and keys - patches == looked.prefix:
            rows.append((number, weights[:, :, 0, looked.prefix :]))
    return rows


def rollout(looked: Look, residual: float = 0.5) -> Tensor:
    """Return the class token's row (B, P) of attention rollout over all layers that attend over the whole image.

    Each layer passes on a fraction `residual` of a token unchanged, and the rest through its attention:

        Ahat_l = residual * I + (1 - residual) * mean over heads of A_l
        R      = Ahat_L ... Ahat_2 Ahat_1                                    the class token's row, patch columns

    If the class token is the only query (CaiT, XCiT, attention pools, class-attention heads), Ahat is the identity
    except for its row. Layers before the class token is added mix only the other tokens. Only the class token's row is
    multiplied, from the last layer to the first. It is not renormalised: the rest to 1 belongs to prefix tokens.

    Args:
        looked: With maps.
        residual: Weight of the skip connection, 0..1.

    Raises:
        AttentionError: A layer attends to pooled keys or other tokens, so rollout is not defined.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers (ACL 2020, arXiv 2005.00928), section 3.1.
    """
    patches = looked.attention.shape[1]
    means = [weights.double().mean(1) for weights in looked.maps]
    for number, weights in enumerate(means):
        queries, keys = weights.shape[-2:]
        if keys < patches or queries not in (1, keys):
            raise AttentionError(
                f"layer {number} has {queries} queries and {keys} keys, not self-attention over {patches} patches: "
                f"attention rollout is not defined for it; show heads or layers instead"
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
