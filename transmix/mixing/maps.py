"""Maps of the clean images, as guided methods read them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class CleanMaps(NamedTuple):
    """What a method that looks first gets of a batch of clean images.

    Attributes:
        maps: (B, P) float32 on the CPU, one for each row's own clean image.
        grid: (h, w) of the maps.
        partner: the B partners: the row whose image comes in.
        size: (height, width) of the images in pixels.
    """

    maps: Tensor
    grid: tuple[int, int]
    partner: Sequence[int]
    size: tuple[int, int]


def check_maps(maps: Tensor, grid: tuple[int, int], rows: int | None = None) -> Tensor:
    """Return maps (B, P) as (B, h, w) float32.

    Args:
        maps: (B, P), patches in row-major order.
        grid: (h, w).
        rows: B that is meant; None: any.

    Raises:
        ValueError: maps of another shape; on the CPU, a map with NaN or infinity: it has no place to look at.
    """
    h, w = grid
    if maps.ndim != 2 or maps.shape[1] != h * w or (rows is not None and len(maps) != rows):
        wanted = "B" if rows is None else rows
        raise ValueError(f"maps of a grid of {h} x {w} must be ({wanted}, {h * w}), not {tuple(maps.shape)}")
    if maps.device.type == "cpu" and not bool(maps.isfinite().all()):
        raise ValueError("a map of the clean images holds NaN or infinity: nothing can be placed by it")
    return maps.detach().float().view(-1, h, w)


def area_mean(maps: Tensor, height: int, width: int) -> Tensor:
    """Return maps (B, h, w) resized to (B, height, width): each new cell the mean of the area that it covers.

    Any size to any other, on any device, in float32.
    """
    with torch.autocast(maps.device.type, enabled=False):
        down, across = (
            _overlap(to, cells, maps.device) for to, cells in zip((height, width), maps.shape[-2:], strict=True)
        )
        return down @ maps.float() @ across.T


def _overlap(to: int, cells: int, device: torch.device) -> Tensor:
    """Return (to, cells): the fraction of each of `to` equal parts that each of `cells` equal cells covers."""
    # In units of 1 / (to * cells) of the length, all borders are whole numbers: no rounding.
    start, cell = torch.arange(to, device=device)[:, None] * cells, torch.arange(cells, device=device)[None] * to
    covered = torch.minimum(start + cells, cell + to) - torch.maximum(start, cell)
    return covered.clamp(min=0).float() / cells
