"""What a map of patches finds, against a mask: the part that holds most of its mass, the point, the box."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.data.masks import FOREGROUND, UNSURE
from transmix.mixing.box import Box, box_area

MASS = 0.6
"""Share of a map's mass that a thresholded map keeps, as in DINO's figures."""


def keep_mass(maps: Tensor, mass: float = MASS) -> Tensor:
    """Return which patches (..., P) bool hold the given share of each map (..., P), the largest first.

    A patch is kept unless it and all that are smaller hold no more than 1 - mass together.

    Source: Caron et al., DINO (ICCV 2021), section 4.2.2, and its visualisation.
    """
    ordered, order = maps.double().sort(dim=-1, stable=True)
    held = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(maps, dtype=torch.bool).scatter(-1, order, held > 1 - mass)


def on_pixels(patches: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bring patches (B, P) to pixels (B, H, W) by nearest neighbour; the type stays."""
    return F.interpolate(patches.view(-1, 1, *grid).float(), size=size, mode="nearest")[:, 0].to(patches.dtype)


def jaccard(found: Tensor, masks: Tensor) -> Tensor:
    """Return |found and foreground| / |found or foreground| of each image, (B,) float64; unsure pixels do not count.

    Args:
        found: (B, H, W) bool.
        masks: (B, H, W) uint8, as `crop_mask` gives them.
    """
    foreground, sure = masks == FOREGROUND, masks != UNSURE
    both, either = found & foreground & sure, (found | foreground) & sure
    return both.flatten(1).sum(1).double() / either.flatten(1).sum(1)


def box_around(found: np.ndarray) -> Box:
    """Return the smallest box around what is true in (H, W); an empty one if nothing is."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def largest_box(patches: np.ndarray, size: tuple[int, int]) -> Box:
    """Return the box, in pixels, around the largest connected part of (h, w) bool; patches connect at corners too."""
    from scipy.ndimage import label

    found: Any = label(patches, structure=np.ones((3, 3)))
    parts, count = found
    if count > 1:
        patches = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    down, across = (pixels / cells for pixels, cells in zip(size, patches.shape, strict=True))
    top, left, bottom, right = box_around(patches)
    return round(top * down), round(left * across), round(bottom * down), round(right * across)


def overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes share over the area that they cover together; 0 for two empty ones."""
    down = min(one[2], other[2]) - max(one[0], other[0])
    across = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(down, 0) * max(across, 0)
    covered = box_area(one) + box_area(other) - shared
    return shared / covered if covered else 0.0
