"""CutMix on a grid: boxes whose sides lie between patches."""

import random
from dataclasses import dataclass
from typing import ClassVar

from transmix.mixing.box import box_area, draw_box
from transmix.mixing.cells import check_cell, default_cell, grid_of
from transmix.mixing.draw import Row, check_alpha, draw_beta


@dataclass(frozen=True)
class GridCutMix:
    """Paste a box of whole cells, so that every patch of the model shows one image alone.

    Args:
        alpha: the area left to the row is drawn from Beta(alpha, alpha).
        cell: side of a cell in pixels; None: the model's patch, where `TLAlign` or a recipe knows the model, else a
            fourteenth of the shorter side, rounded up (16 at 224).

    Raises:
        ValueError: a parameter out of its range.

    Source: Xiao et al., Token-Label Alignment (ICCV 2023), its mixing. Differs from the authors' code: a side may be an
    odd number of cells. Theirs rounds sides down to even numbers, so that on small grids many boxes are empty.
    """

    alpha: float = 1.0
    cell: int | None = None

    cells_are_patches: ClassVar = True

    def __post_init__(self) -> None:
        check_alpha("GridCutMix", self.alpha)
        check_cell(self.cell)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw a box of cells for images of `height` x `width` pixels."""
        cell = self.cell or default_cell(height, width, 14)
        top, left, bottom, right = draw_box(rng, draw_beta(rng, self.alpha), *grid_of(cell, height, width))
        box = top * cell, left * cell, min(bottom * cell, height), min(right * cell, width)
        return Row(1 - box_area(box) / (height * width), box)
