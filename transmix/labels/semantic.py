"""SnapMix's labels: two weights, what the box takes from one map and brings of the other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.labels.evidence import Evidence, weigh_both
from transmix.labels.patches import grid_of_maps, source_mask
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class SemanticLabels:
    """SnapMix's rule: the own label loses the map's mass under the mask, the partner's gains what it brings.

    The two weights need not sum to 1. Settings: none.

    Source: Huang et al., SnapMix (AAAI 2021). The paper's maps are class activation maps of the true class; here they
    are the class token's attention in the images before mixing.
    """

    needs: ClassVar = ("clean",)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.clean`."""
        clean = evidence.clean
        assert clean is not None
        return semantic_labels(mixed, clean.row, grid=clean.grid, extent=clean.extent)


def semantic_labels(
    mixed: Mixed, maps: Tensor, *, grid: tuple[int, int] | None = None, extent: tuple[int, int] | None = None
) -> Mixed:
    """Weigh each label by its own map, pixel by pixel: SnapMix's rule.

        lam         = 1 - sum(own map * M)
        lam_partner = sum(partner's map * M')

    Maps are brought to the pixels, see `semantic_map`. M is the mask, M' where in the partner its pixels come from
    (`source_box`). A constant map says nothing: its weight is the area's. The two weights need not sum to 1. Rows
    without a mask keep their label. No gradient flows into the label.

    Args:
        mixed: the batch.
        maps: (B, P) of the images before mixing, of any scale and sign, patches in row-major order.
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Raises:
        ValueError: maps of another shape, a grid that does not fit, or partners that are no rows of this batch.

    Source: Huang et al., SnapMix (AAAI 2021). Differs from the authors' code: where both labels are the same class
    they count the row twice, here both weights stay as they are and the loss counts their sum once; a constant map is
    told before the resizing, whose rounding they normalise to a map.
    """
    grid = grid_of_maps(mixed, maps, grid, "maps")
    height, width = mixed.images.shape[-2:]

    def weights(mask: Tensor) -> tuple[Tensor, Tensor]:
        pixels = semantic_map(maps, grid, (height, width), extent)
        is_constant = (maps == maps[:, :1]).all(1)
        own = 1 - (pixels * mask).flatten(1).sum(1)
        theirs = (mixed.of_partner(pixels) * source_mask(mixed)).flatten(1).sum(1)
        return (
            torch.where(is_constant, mixed.lam_area, own),
            torch.where(mixed.of_partner(is_constant), 1 - mixed.lam_area, theirs),
        )

    return weigh_both(mixed, "semantic", weights)


def semantic_map(
    maps: Tensor, grid: tuple[int, int], size: tuple[int, int], extent: tuple[int, int] | None = None
) -> Tensor:
    """Bring maps from patches to pixels: bilinear between the patches' centres, less the minimum, with sum 1.

    Args:
        maps: (B, P).
        grid: (h, w) of the patches.
        size: (height, width) of the images.
        extent: (height, width) that the grid covers; pixels beyond it get 0. None: the whole image.

    Returns:
        (B, H, W) float32; not finite for a map that is constant.
    """
    extent = extent or size
    coarse = maps.detach().float().view(len(maps), 1, *grid)
    pixels = F.interpolate(coarse, size=extent, mode="bilinear", align_corners=False)[:, 0, : size[0], : size[1]]
    pixels = pixels - pixels.amin((1, 2), keepdim=True)
    pixels = F.pad(pixels, (0, size[1] - pixels.shape[2], 0, size[0] - pixels.shape[1]))
    return pixels / pixels.sum((1, 2), keepdim=True)
