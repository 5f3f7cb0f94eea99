"""TL-Align's labels: passed from token to token by the attention of every block, up to the class token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.attention.grid import find_grid
from transmix.labels.evidence import Evidence, Rollout, weigh
from transmix.labels.patches import fractions_on_patches
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class RolloutLabels:
    """TL-Align's rule: every patch carries the label of its image, and every block's attention mixes the labels.

    The class token's mixture after the last block is the label. Settings: none.

    Source: Xiao et al., TL-Align (ICCV 2023).
    """

    needs: ClassVar = ("rollout",)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.rollout`."""
        assert evidence.rollout is not None
        return weigh_by_rollout(mixed, evidence.rollout)


@dataclass(frozen=True, eq=False)
class RolloutMaps:
    """A `Rollout` from whole attention maps: slow and explicit.

    Attributes:
        attention: (B, blocks, G, N, N), rows summing to 1: query, key. The class token is the first of the N.
        grid: (h, w) of the patches, the last h * w tokens.
        extent: (height, width) in pixels of the images that the grid covers.
    """

    attention: Tensor
    grid: tuple[int, int]
    extent: tuple[int, int]

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches."""
        return self.attention.shape[-1] - self.grid[0] * self.grid[1]

    def shares(self, tokens: Tensor) -> Tensor:
        """Return the class token's share of the own label after all blocks, (B,), of each token's before, (B, N)."""
        for block in self.attention.detach().unbind(1):
            tokens = (torch.einsum("bqk,bk->bq", block.float().mean(1), tokens) + tokens) / 2
        return tokens[:, 0]


def rollout_labels(
    mixed: Mixed, attention: Tensor, *, grid: tuple[int, int] | None = None, extent: tuple[int, int] | None = None
) -> Mixed:
    """Pass the labels from token to token by every block's attention: TL-Align's rule, in its slow form.

        e   = 1 - M of a patch, lam_area of the class token and other prefix tokens
        e   <- (A e + e) / 2        for every block
        lam = e of the class token

    A is the block's attention averaged over the heads, M the mask brought to the patches: the fraction of each patch
    that is pasted. As the rows of A sum to 1, one number a token is enough, whatever the labels. Rows without a mask
    keep their label. No gradient flows into the label.

    Args:
        mixed: the batch that the model saw.
        attention: (B, blocks, G, N, N), softmax over the last axis, of all blocks in order; class token first.
        grid: (h, w) of the patches, the last h * w of the N tokens; None: all but the class token are patches, see
            `find_grid`.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Raises:
        ValueError: attention of another shape, or a grid that does not fit.

    Source: Xiao et al., TL-Align (ICCV 2023). Differs from the authors' code: any mask and odd batches, not boxes of
    whole patches alone; a second prefix token starts as the class token does; float32 under autocast.
    """
    height, width = mixed.images.shape[-2:]
    tokens = attention.shape[-1]
    if attention.ndim != 5 or len(attention) != len(mixed.images) or attention.shape[-2] != tokens:
        raise ValueError(f"attention must be ({len(mixed.images)}, blocks, G, N, N), not {tuple(attention.shape)}")
    h, w = find_grid(tokens - 1, height, width) if grid is None else grid
    if h * w >= tokens:
        raise ValueError(f"a grid of {h} x {w} has {h * w} patches, which leaves no class token among {tokens} tokens")
    return weigh_by_rollout(mixed, RolloutMaps(attention, (h, w), extent or (height, width)))


def weigh_by_rollout(mixed: Mixed, rollout: Rollout) -> Mixed:
    """Weigh the labels of the rows with a mask by what the class token has after all blocks."""

    def lam_rollout(mask: Tensor) -> Tensor:
        pasted = fractions_on_patches(mask, rollout.grid, rollout.extent)
        patches = (1 - pasted).expand(len(mixed.lam_area), -1)
        prefix = mixed.lam_area[:, None].expand(-1, rollout.prefix)
        return rollout.shares(torch.cat([prefix, patches], 1))

    return weigh(mixed, "rollout", 1.0, lam_rollout)
