"""A mask of pixels, brought to patches or to the partner's own coordinates; the grid of maps over patches."""

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.attention.grid import find_grid
from transmix.mixing.mixed import Mixed
from transmix.mixing.pixels import boxes_mask

DOWNSAMPLE = ("nearest", "fraction")

FROM_MODEL = "model"
"""The shift of a rule that is found from the model: `transmix.attention.receptive_shift`."""


def check_downsample(downsample: str, shift: float | str = 0) -> None:
    """Check how a mask comes down to patches.

    Raises:
        ValueError: a name that is none of `DOWNSAMPLE`, or a shift that is none.
    """
    if downsample not in DOWNSAMPLE:
        raise ValueError(f"downsample must be one of {', '.join(DOWNSAMPLE)}, not {downsample!r}")
    if isinstance(shift, bool) or (isinstance(shift, str) and shift != FROM_MODEL):
        raise ValueError(f"shift is a number of pixels, or 'model', not {shift!r}")
    if shift and downsample == "nearest":
        raise ValueError("shift moves the fraction of each patch: downsample must be 'fraction'")


def pixels_of(shift: float | str) -> float:
    """Return a rule's shift in pixels.

    Raises:
        ValueError: it is found from the model, and nobody has done so.
    """
    if isinstance(shift, str):
        raise ValueError(
            "shift='model' is found by TransMix(model, ...); a rule that is called by itself needs pixels: "
            "shift=transmix.attention.receptive_shift(model)"
        )
    return shift


def grid_of_maps(mixed: Mixed, maps: Tensor, grid: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """Return the grid (h, w) of maps over patches.

    Args:
        mixed: B rows.
        maps: (B, P).
        grid: of the patches; None: the one that strides over H x W make, see `find_grid`.
        name: what the maps are called in messages.

    Raises:
        ValueError: maps of another shape, or a grid that does not fit.
    """
    if maps.ndim != 2 or len(maps) != len(mixed.images):
        raise ValueError(f"{name} must be ({len(mixed.images)}, P), not {tuple(maps.shape)}")
    height, width = mixed.images.shape[-2:]
    h, w = find_grid(maps.shape[1], height, width) if grid is None else grid
    if h * w != maps.shape[1]:
        raise ValueError(f"a grid of {h} x {w} has {h * w} patches, but {name} has {maps.shape[1]}")
    return h, w


def source_mask(mixed: Mixed) -> Tensor:
    """Return which of the partner's pixels are shown, in the partner's own coordinates.

    Args:
        mixed: B rows with a mask.

    Returns:
        (B or 1, H, W), as `mixed.mask`: the mask itself, but `source_box` in rows whose box comes from elsewhere.

    Raises:
        ValueError: partners that are no rows of this batch.
    """
    assert mixed.mask is not None
    if mixed.partner is None:
        raise ValueError("the partners of these images are no rows of this batch, so there are no maps of them")
    if mixed.source_box is None or mixed.box is None:
        return mixed.mask
    height, width = mixed.mask.shape[-2:]
    top, left, bottom, right = mixed.box.unbind(1)
    has_box = ((bottom > top) & (right > left))[:, None, None]  # the other rows may have a mask of another shape
    return torch.where(has_box, boxes_mask(mixed.source_box, height, width).to(mixed.mask.dtype), mixed.mask)


def mask_on_patches(
    mask: Tensor, grid: tuple[int, int], downsample: str, extent: tuple[int, int] | None = None, shift: float = 0
) -> Tensor:
    """Bring a mask from pixels to patches.

    Args:
        mask: (B, H, W), bool or float in [0, 1].
        grid: (h, w) of the patches.
        downsample: "nearest": what the patch's top left pixel is; "fraction": the mean over the patch.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.
        shift: of "fraction", how many pixels above and left of its patch's middle a token looks, see
            `transmix.attention.receptive_shift`. What lies before the border is as the border.

    Returns:
        (B, h, w) float32 in [0, 1].
    """
    height, width = extent or mask.shape[-2:]
    if downsample == "nearest":
        if (height, width) != mask.shape[-2:]:
            mask = F.pad(mask, (0, width - mask.shape[-1], 0, height - mask.shape[-2]))  # negative: cut
        return F.interpolate(mask[:, None].float(), size=grid, mode="nearest")[:, 0]
    mask = mask[..., :height, :width]
    down = _overlap(grid[0], height, mask.shape[-2], shift, mask.device)
    across = _overlap(grid[1], width, mask.shape[-1], shift, mask.device)
    return down @ mask.float() @ across.T


def fractions_on_patches(
    mask: Tensor, grid: tuple[int, int], extent: tuple[int, int] | None = None, shift: float = 0
) -> Tensor:
    """Return the fraction of each patch that a mask (B, H, W) covers, (B, h * w) float32; exactly 0 or 1 where whole.

    `mask_on_patches` leaves rounding there, and what is left of a patch that is covered whole would count as evidence
    wherever there is no other.
    """
    fractions = mask_on_patches(mask, grid, "fraction", extent, shift).flatten(1)
    whole = fractions.round()
    return torch.where((fractions - whole).abs() < 1e-6, whole, fractions)


def _overlap(cells: int, extent: int, pixels: int, shift: float, device: torch.device) -> Tensor:
    """Return (cells, pixels): the fraction of each of `cells` equal cells over `extent` that each pixel covers.

    Of a cell that reaches beyond the pixels, the part within counts as the whole: padding belongs to neither image.
    Cells moved by `shift` reach beyond the image's border, whose pixel counts for what is there.
    """
    size = extent / cells
    start = torch.arange(cells, device=device)[:, None] * size - shift
    pixel = torch.arange(pixels, device=device)[None]
    first = torch.where(pixel == 0, min(0.0, -shift), pixel)
    last = torch.where((pixel == pixels - 1) & (extent <= pixels), pixels + max(0.0, -shift), pixel + 1)
    covered = (torch.minimum(start + size, last) - torch.maximum(start, first)).clamp(min=0)
    return covered / (size if extent <= pixels else covered.sum(1, keepdim=True))
