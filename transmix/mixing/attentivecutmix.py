"""Attentive CutMix: the row keeps the cells that it attends most."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.mixing.cells import Cells, shape_row
from transmix.mixing.draw import Row
from transmix.mixing.maps import CleanMaps, area_mean, check_maps


@dataclass(frozen=True)
class AttentiveCutMix:
    """Keep the most attended cells of each image, paste them on its partner: all else is the partner's.

    Args:
        k: cells that the row keeps; None: 6 of 49, in proportion.
        cells: cells down and across.

    Raises:
        ValueError: a parameter out of its range.

    Source: Walawalkar et al., Attentive CutMix (ICASSP 2020). The maps come to the cells as the mean of
    the area that each covers.
    """

    k: int | None = None
    cells: int = 7

    looks_at: ClassVar = "class"

    def __post_init__(self) -> None:
        if not self.cells >= 1:
            raise ValueError(f"cells is a number of cells along a side, at least 1, not {self.cells}")
        if self.k is not None and not 0 <= self.k <= self.cells**2:
            raise ValueError(f"k must lie in [0, {self.cells**2}] cells, not {self.k}")

    def place(self, rngs: Mapping[int, random.Random], clean: CleanMaps) -> dict[int, Row]:
        """Choose the cells of each row by its own map. Nothing is drawn; parameters as those of `SMMix.place`."""
        maps, grid, partner, (height, width) = clean
        k = max(round(self.cells**2 * 6 / 49), 1) if self.k is None else self.k
        cells = self.cells, self.cells
        own = area_mean(check_maps(maps, grid, len(partner)), *cells).flatten(1)
        taken = top_cells(own, cells, k).flatten(1).tolist()
        where = {row: tuple(at for at, is_taken in enumerate(taken[row]) if is_taken) for row in rngs}
        return {row: shape_row(Cells(cells, its), height, width) for row, its in where.items()}


def top_cells(maps: Tensor, grid: tuple[int, int], k: int) -> Tensor:
    """Return where the partner comes in: everywhere but in the row's own k most attended cells.

    Args:
        maps: (B, P) of each row's own clean image, cells in row-major order.
        grid: (h, w).
        k: cells that the row keeps; of equal ones the first in row-major order.

    Returns:
        (B, h, w) bool, True where the partner comes in.

    Raises:
        ValueError: maps that do not fit, or more cells than there are.

    Source: Walawalkar et al., Attentive CutMix (ICASSP 2020). (A widely used toolbox swaps the roles: the row's most
    attended cells are replaced.)
    """
    cells = check_maps(maps, grid).flatten(1)
    if not 0 <= k <= cells.shape[1]:
        raise ValueError(f"k must lie in [0, {cells.shape[1]}] cells, not {k}")
    kept = cells.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.ones_like(cells, dtype=torch.bool).scatter_(1, kept, False).view(-1, *grid)
