"""SaliencyMix: a box round the most salient pixel of the partner."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.mixing.box import box_area
from transmix.mixing.draw import Row, check_alpha, draw_beta
from transmix.mixing.maps import CleanMaps, check_maps


@dataclass(frozen=True)
class SaliencyMix:
    """Paste a box round the partner's most salient pixel.

    Args:
        alpha: the area left to the row is drawn from Beta(alpha, alpha).

    Raises:
        ValueError: alpha is not above 0.

    Source: Uddin et al., SaliencyMix (ICLR 2021). Differs from the authors' code: each row's box follows
    its own partner. Theirs puts one box, that of the first row's partner, into the whole batch.
    """

    alpha: float = 1.0

    looks_at: ClassVar = "saliency"

    def __post_init__(self) -> None:
        check_alpha("SaliencyMix", self.alpha)

    def place(self, rngs: Mapping[int, random.Random], clean: CleanMaps) -> dict[int, Row]:
        """Draw a size for each row and place its box by the partner's map.

        Parameters as those of `SMMix.place`. Maps of another grid than the image's pixels are resized bilinearly; each
        is divided by its maximum.
        """
        maps, grid, partner, (height, width) = clean
        maps = check_maps(maps, grid, len(partner))
        if not rngs:
            return {}
        lam = [draw_beta(rng, self.alpha) for rng in rngs.values()]
        theirs = maps[[partner[row] for row in rngs]]
        if grid != (height, width):
            theirs = F.interpolate(theirs[:, None], (height, width), mode="bilinear")[:, 0]
        theirs = theirs / theirs.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        boxes = [tuple(box) for box in saliency_box(theirs, lam).tolist()]
        return {row: Row(1 - box_area(box) / (height * width), box) for row, box in zip(rngs, boxes, strict=True)}


def saliency_box(saliency: Tensor, lam: float | Sequence[float]) -> Tensor:
    """Return a box round the most salient pixel of each map, of CutMix's size, cut off at the border.

    Args:
        saliency: (B, H, W) in [0, 1], of the PARTNERS: entry i is of the image that comes into row i.
        lam: the area to be left, for all or one per row.

    Returns:
        (B, 4) int64, (top, left, bottom, right) in pixels, half-open. Sides are even before they are cut off. The most
        salient pixel is the first, in row-major order, of those that are the largest in whole steps of 1 / 255.

    Raises:
        ValueError: maps of another shape, lam out of [0, 1] or of another number.

    Source: Uddin et al., SaliencyMix (ICLR 2021).
    """
    if saliency.ndim != 3:
        raise ValueError(f"saliency must be (B, H, W), not {tuple(saliency.shape)}")
    rows, height, width = saliency.shape
    each = [float(one) for one in lam] if isinstance(lam, Sequence | Tensor) else [float(lam)] * rows
    if len(each) != rows or not all(0 <= one <= 1 for one in each):
        raise ValueError(f"lam is one weight in [0, 1], or one per row ({rows}), not {lam}")
    peak = (saliency.detach().float() * 255).clamp(0, 255).to(torch.uint8).flatten(1).int().argmax(1)
    at = torch.stack((peak // width, peak % width), dim=1)
    halves = [[int(side * math.sqrt(1 - one)) // 2 for side in (height, width)] for one in each]
    half = torch.tensor(halves, dtype=torch.int64).view(-1, 2).to(at.device)
    sides = torch.tensor((height, width), device=at.device)
    return torch.cat(((at - half).clamp(min=0), torch.minimum(at + half, sides)), dim=1)
