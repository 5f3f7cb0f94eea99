"""Cells: regions made of the cells of a grid, in plain numbers and as masks."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from transmix.mixing.draw import Row, Shape


@dataclass(frozen=True)
class Cells:
    """The partner takes some cells of a grid: a shape for `Row` and `Draw`.

    Attributes:
        grid: (h, w), number of cells down and across.
        taken: the partner's cells, in row-major order.
        cell: side of a cell in pixels, the last ones cut off at the border; None: h x w cells over the whole image,
            as equal as whole pixels allow.
    """

    grid: tuple[int, int]
    taken: tuple[int, ...]
    cell: int | None = None

    def mask(self, height: int, width: int) -> Tensor:
        """Return (H, W) bool on the CPU, True where the partner's cells are."""
        h, w = self.grid
        cells = torch.zeros(h * w, dtype=torch.bool)
        cells[list(self.taken)] = True
        cells = cells.view(h, w)
        if self.cell is not None:
            return cell_mask(cells, self.cell, height, width)
        return cells[torch.arange(height) * h // height][:, torch.arange(width) * w // width]


def cell_mask(cells: Tensor, cell: int, height: int, width: int) -> Tensor:
    """Return cells as pixels; cells that reach beyond the image are cut off at its border.

    Args:
        cells: (B, h, w) or (h, w) bool or float, h = ceil(height / cell), w = ceil(width / cell).
        cell: side of a cell in pixels.
        height: H of the image.
        width: W.

    Returns:
        (B, H, W) or (H, W), in the type of `cells`.

    Raises:
        ValueError: another number of cells.
    """
    grid = grid_of(cell, height, width)
    if cells.ndim not in (2, 3) or tuple(cells.shape[-2:]) != grid:
        raise ValueError(
            f"cells of {cell} pixels in an image of {height} x {width} are (B, {grid[0]}, {grid[1]}), "
            f"not {tuple(cells.shape)}"
        )
    pixels = cells.repeat_interleave(cell, -2).repeat_interleave(cell, -1)
    return pixels[..., :height, :width].contiguous()


def grid_of(cell: int, height: int, width: int) -> tuple[int, int]:
    """Return (h, w), how many cells of `cell` pixels cover an image."""
    return math.ceil(height / cell), math.ceil(width / cell)


def default_cell(height: int, width: int, cells: int) -> int:
    """Return the side in pixels of one of `cells` cells along the image's shorter side, rounded up."""
    return math.ceil(min(height, width) / cells)


def on_patches(method: Any, patch: int | None) -> Any:
    """Return a method with the model's patch as its cell, if its cells are patches and none is given.

    Args:
        method: of any kind; those whose cells are patches have `cells_are_patches`.
        patch: side of the model's patches in pixels; None: unknown.
    """
    if patch is None or not getattr(method, "cells_are_patches", False) or method.cell is not None:
        return method
    return replace(method, cell=patch)


def check_cell(cell: int | None) -> None:
    """Check a setting.

    Raises:
        ValueError: a cell of less than one pixel.
    """
    if cell is not None and not (cell >= 1 and int(cell) == cell):
        raise ValueError(f"cell is a side in whole pixels, at least 1, not {cell}")


def shape_row(shape: Shape, height: int, width: int) -> Row:
    """Return the row of a shape: lam = 1 - mean of the mask that is used."""
    return Row(1 - float(shape.mask(height, width).double().mean()), shape=shape)
