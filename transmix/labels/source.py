"""TokenMix's labels: weighed by how much of each image's own map is still shown."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.labels.evidence import Evidence, own_part, weigh, weigh_both
from transmix.labels.patches import check_downsample, fractions_on_patches, grid_of_maps, pixels_of, source_mask
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class SourceLabels:
    """TokenMix's rule: each label weighs what the mixed image shows of its own unmixed image's map.

    Args:
        sum_to_one: divide both weights by their sum; False is the published form, whose weights sum to 0 to 2.
        weight: with sum_to_one, share of the maps against area in the label.
        shift: how many pixels above and left of its patch's middle a token looks, as in `AttentionLabels`.

    Raises:
        ValueError: a parameter out of its range.

    Source: Liu et al., TokenMix (ECCV 2022). The paper's maps are a teacher's, of the true class; here they are the
    class token's attention in the images before mixing.
    """

    sum_to_one: bool = True
    weight: float = 1.0
    shift: float | str = 0

    needs: ClassVar = ("clean",)

    def __post_init__(self) -> None:
        check_parameters(self.sum_to_one, self.weight, self.shift)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.clean`."""
        clean = evidence.clean
        assert clean is not None
        how = {"sum_to_one": self.sum_to_one, "weight": self.weight, "shift": pixels_of(self.shift)}
        return source_labels(mixed, clean.row, grid=clean.grid, extent=clean.extent, **how)  # type: ignore[arg-type]


def source_labels(
    mixed: Mixed,
    maps: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    sum_to_one: bool = True,
    weight: float = 1.0,
    shift: float = 0,
    extent: tuple[int, int] | None = None,
) -> Mixed:
    """Weigh each label by how much of its image's own map is shown: TokenMix's rule.

        own     = sum(own map * (1 - M)) / sum(own map)
        theirs  = sum(partner's map * M) / sum(partner's map)
        lam     = weight * own / (own + theirs) + (1 - weight) * lam_area      with sum_to_one
        lam     = own,    lam_partner = theirs                                 without

    M is the mask brought to the patches: the fraction of each patch that is pasted; for the partner, that which is
    taken (`source_box`). A map of zeros shows nothing, 0; where both show nothing, the label is by area. Rows without
    a mask keep their label. No gradient flows into the label.

    Args:
        mixed: the batch.
        maps: (B, P) of the images before mixing, of any scale, patches in row-major order; below 0 is no evidence.
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        sum_to_one: divide both by their sum.
        weight: with sum_to_one, share of the maps against area; 1 is the paper's.
        shift: how many pixels above and left of its patch's middle a token looks.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Raises:
        ValueError: maps of another shape, a grid that does not fit, a parameter out of its range, or partners that are
            no rows of this batch.

    Source: Liu et al., TokenMix (ECCV 2022). Differs from the authors' code: their weights sum to anything from 0 to
    2, and half of the smoothing is subtracted after weighing, so that small weights give negative targets; here labels
    are smoothed first, and sum_to_one makes the weights a distribution.
    """
    check_parameters(sum_to_one, weight, shift)
    grid = grid_of_maps(mixed, maps, grid, "maps")

    def shown(mask: Tensor) -> tuple[Tensor, Tensor]:
        own = maps.detach().float().clamp(min=0)
        total = own.sum(1, keepdim=True)
        own = torch.where(total == 0, 0, own / total)
        pasted, taken = (fractions_on_patches(one, grid, extent, shift) for one in (mask, source_mask(mixed)))
        return (own * (1 - pasted)).sum(1), (mixed.of_partner(own) * taken).sum(1)

    def or_area(mask: Tensor) -> tuple[Tensor, Tensor]:
        own, theirs = shown(mask)
        nothing = own + theirs == 0
        return torch.where(nothing, mixed.lam_area, own), torch.where(nothing, 1 - mixed.lam_area, theirs)

    if sum_to_one:
        return weigh(mixed, "source", weight, lambda mask: own_part(*shown(mask), mixed.lam_area))
    return weigh_both(mixed, "source", or_area)


def check_parameters(sum_to_one: bool, weight: float, shift: float | str) -> None:
    """Check the parameters of the rule.

    Raises:
        ValueError: one is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of the maps in [0, 1], not {weight}")
    if weight != 1 and not sum_to_one:
        raise ValueError("weight is for labels that sum to one: with sum_to_one=False there is no mean with the area")
    check_downsample("fraction", shift)
