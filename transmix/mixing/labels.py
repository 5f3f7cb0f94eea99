"""Label rules: (Mixed, ...) -> Mixed with another weight of the labels. TransMix is one; area is another.

A rule computes from `lam_area` and the mask, never from `lam`, so applying it twice changes nothing.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.attention.grid import find_grid
from transmix.mixing.mixed import Mixed

DOWNSAMPLE = ("nearest", "fraction")


def attention_labels(
    mixed: Mixed,
    attention: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    weight: float = 0.5,
    downsample: str = "nearest",
    extent: tuple[int, int] | None = None,
) -> Mixed:
    """Weigh labels by where the model looks: TransMix's rule.

        lam_attn = sum(A * (1 - M)) / sum(A)
        lam      = weight * lam_attn + (1 - weight) * lam_area

    A is the class token's attention over the P patches, M the mask brought to the patches. Rows without a box
    (Mixup, unmixed) keep their label. No gradient flows into the label. Sums are taken in float32.

    Args:
        mixed: the batch that the model saw.
        attention: (B, P) of any positive scale, patches in row-major order.
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        weight: share of attention against area; 0.5 is the paper's, 0 is plain CutMix.
        downsample: "nearest": a patch is pasted if its top left pixel is (the paper); "fraction": by the
            fraction of its pixels that are.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image. More
            than the image where the model pads it (padding belongs to neither image), less where it leaves a
            remainder out.

    Raises:
        ValueError: attention of another shape, a grid that does not fit, a parameter out of its range.

    Source: Chen et al., TransMix (CVPR 2022): the label by attention; its section 4.1 takes the mean of both.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of attention in [0, 1], not {weight}")
    if downsample not in DOWNSAMPLE:
        raise ValueError(f"downsample must be one of {', '.join(DOWNSAMPLE)}, not {downsample!r}")
    if attention.ndim != 2 or len(attention) != len(mixed.images):
        raise ValueError(f"attention must be ({len(mixed.images)}, P), not {tuple(attention.shape)}")
    height, width = mixed.images.shape[-2:]
    h, w = find_grid(attention.shape[1], height, width) if grid is None else grid
    if h * w != attention.shape[1]:
        raise ValueError(f"a grid of {h} x {w} has {h * w} patches, but attention has {attention.shape[1]}")
    if mixed.mask is None:
        return replace(mixed, lam=mixed.lam_area, rule="attention")
    with torch.no_grad(), torch.autocast(attention.device.type, enabled=False):
        attention = attention.detach().float()
        pasted = mask_on_patches(mixed.mask, (h, w), downsample, extent).flatten(1)
        lam_attention = (attention * (1 - pasted)).sum(1) / attention.sum(1)
        lam = (weight * lam_attention + (1 - weight) * mixed.lam_area).clamp(0, 1)  # rounding may step outside
        has_box = mixed.mask.flatten(1).any(1)
        return replace(mixed, lam=torch.where(has_box, lam, mixed.lam_area), rule="attention")


def mask_on_patches(
    mask: Tensor, grid: tuple[int, int], downsample: str, extent: tuple[int, int] | None = None
) -> Tensor:
    """Bring a mask (B, H, W) bool from pixels to patches over `extent`: (B, h, w) float32 in [0, 1]."""
    height, width = extent or mask.shape[-2:]
    if downsample == "nearest":
        if (height, width) != mask.shape[-2:]:
            mask = F.pad(mask, (0, width - mask.shape[-1], 0, height - mask.shape[-2]))  # negative: cut
        return F.interpolate(mask[:, None].float(), size=grid, mode="nearest")[:, 0]
    mask = mask[..., :height, :width]
    down = _overlap(grid[0], height, mask.shape[-2], mask.device)
    across = _overlap(grid[1], width, mask.shape[-1], mask.device)
    return down @ mask.float() @ across.T


def _overlap(cells: int, extent: int, pixels: int, device: torch.device) -> Tensor:
    """Return (cells, pixels): the fraction of each of `cells` equal cells over `extent` that each pixel covers.

    Of a cell that reaches beyond the pixels, the part within counts as the whole: padding belongs to neither image.
    """
    size = extent / cells
    start = torch.arange(cells, device=device)[:, None] * size
    pixel = torch.arange(pixels, device=device)[None]
    covered = (torch.minimum(start + size, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0)
    return covered / (size if extent <= pixels else covered.sum(1, keepdim=True))
