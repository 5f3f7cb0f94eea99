"""The evidence that label rules use. A rule states what it needs; `TransMix` collects it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from transmix.attention.reader import Attention
from transmix.mixing.mixed import Mixed

KINDS = {
    "attention": "the class token's attention in the mixed images",
    "logits": "the model's logits of the mixed images",
    "maps": "every block's whole attention in the mixed images, of a second forward without gradient",
    "clean": "maps of the images before mixing, from the guide: the class token's attention, or class maps",
    "foreground": "masks of the objects in the images before mixing, which the caller passes to `mix`",
    "rollout": "how labels pass from token to token by every block's attention in the mixed images",
}
"""Name -> meaning, of the evidence that a rule can need: names for `needs`, and fields of `Evidence`."""


class Rollout(Protocol):
    """How labels pass from token to token through the blocks of one forward; no gradient flows through it."""

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches, the class token first among them."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches, row-major."""
        ...

    @property
    def extent(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the grid covers, as in `Attention`."""
        ...

    def shares(self, tokens: Tensor) -> Tensor:
        """Return the share of the own label that the class token has after all blocks.

            e <- (A e + e) / 2      for each block, A its attention (N, N) averaged over the heads

        Args:
            tokens: (B, N) float32 in [0, 1], the share of the own label that each token starts with.

        Returns:
            (B,) float32.
        """
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence that a rule needs; the rest is None.

    Attributes:
        attention: row (B, P) float32, grid (h, w), extent (height, width).
        logits: (B, K), without gradient.
        maps: (B, blocks, G, N, N) float32, softmax over the last axis.
        clean: as `attention`, of the rows' own images.
        foreground: (B, H, W) bool or float, of the rows' own images.
        rollout: labels through the blocks of the forward on the mixed images, see `Rollout`.
    """

    attention: Attention | None = None
    logits: Tensor | None = None
    maps: Tensor | None = None
    clean: Attention | None = None
    foreground: Tensor | None = None
    rollout: Rollout | None = None


def weigh(mixed: Mixed, rule: str, weight: float | Tensor, evidence: Callable[[Tensor], Tensor]) -> Mixed:
    """Weigh the labels of the rows with a mask by evidence and area; the other rows keep their label.

        lam = weight * evidence(mask) + (1 - weight) * lam_area

    Args:
        mixed: the batch.
        rule: name for `Mixed.rule`.
        weight: share of the evidence against area, in [0, 1]; one, or one per row (B,).
        evidence: mask (B or 1, H, W) -> (B,) float32, the row's own weight by the evidence alone. Called only if the
            batch has a mask, without gradient and autocast.
    """
    if mixed.mask is None:
        return replace(mixed, lam=mixed.lam_area, lam_partner=None, rule=rule)
    # Labels take no gradient. Autocast would compute the sums in half precision, in which small weights vanish.
    with torch.no_grad(), torch.autocast(mixed.lam.device.type, enabled=False):
        alone = evidence(mixed.mask)
        if isinstance(weight, Tensor):  # exactly the area where the evidence is the area
            lam = torch.lerp(mixed.lam_area, alone, weight)
        else:
            lam = weight * alone + (1 - weight) * mixed.lam_area
        lam = lam.clamp(0, 1)  # rounding may step outside
        has_mask = mixed.mask.flatten(1).any(1)
        lam, alone = (torch.where(has_mask, one, mixed.lam_area) for one in (lam, alone))
        return replace(mixed, lam=lam, lam_partner=None, lam_evidence=alone, rule=rule)


def weigh_both(mixed: Mixed, rule: str, evidence: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Mixed:
    """Give both labels weights of their own, which need not sum to 1; rows without a mask keep their label.

    `lam_evidence` is the own weight's part of both.

    Args:
        mixed: the batch.
        rule: name for `Mixed.rule`.
        evidence: mask (B or 1, H, W) -> weights (B,) float32 of the own and of the partner's label. Called as in
            `weigh`.
    """
    if mixed.mask is None:
        return replace(mixed, lam=mixed.lam_area, lam_partner=None, rule=rule)
    with torch.no_grad(), torch.autocast(mixed.lam.device.type, enabled=False):
        has_mask = mixed.mask.flatten(1).any(1)
        area = mixed.lam_area, 1 - mixed.lam_area
        both = zip(evidence(mixed.mask), area, strict=True)
        lam, theirs = (torch.where(has_mask, one.clamp(0, 1), by_area) for one, by_area in both)
        share = own_part(lam, theirs, mixed.lam_area)
        return replace(mixed, lam=lam, lam_partner=theirs, lam_evidence=share, rule=rule)


def own_part(own: Tensor, theirs: Tensor, otherwise: Tensor) -> Tensor:
    """Return own / (own + theirs), `otherwise` where both are 0; all (B,)."""
    both = own + theirs
    return torch.where(both == 0, otherwise, own / both)  # NaN stays NaN: the step is not finite, and is reported


class Rule(Protocol):
    """A label rule: a frozen dataclass, whose fields are its settings. `RULES` lists those that have a name.

    A rule computes from `lam_area` and the mask, never from `lam`: applying it twice changes nothing. It leaves rows
    with an empty mask as they are.
    """

    needs: ClassVar[tuple[str, ...]]
    """Names of the evidence it uses, from `KINDS`; () for none."""

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Return the batch with other weights of the labels."""
        ...
