"""A mask of pixels, brought to patches."""

import torch
from torch import Tensor
from torch.nn import functional as F

DOWNSAMPLE = ("nearest", "fraction")


def mask_on_patches(
    mask: Tensor, grid: tuple[int, int], downsample: str, extent: tuple[int, int] | None = None
) -> Tensor:
    """Bring a mask from pixels to patches.

    Args:
        mask: (B, H, W), bool or float in [0, 1].
        grid: (h, w) of the patches.
        downsample: "nearest": what the patch's top left pixel is; "fraction": the mean over the patch.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Returns:
        (B, h, w) float32 in [0, 1].
    """
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
