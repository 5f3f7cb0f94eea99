"""MaskMix: large square cells, some of each image's own."""

import math
import random
from dataclasses import dataclass
from typing import ClassVar

from transmix.mixing.cells import Cells, check_cell, default_cell, grid_of, shape_row
from transmix.mixing.draw import Row, check_alpha, draw_beta


@dataclass(frozen=True)
class MaskMix:
    """Keep some large cells of each image and take the others from its partner.

    A share is drawn from Beta(alpha, alpha), ceil(cells * share) cells are kept. In mode "batch" all rows keep equally
    many cells, each row others.

    Args:
        alpha: of Beta.
        cell: side of a cell in pixels; None: 56, or a quarter of the shorter side (rounded up) where that is less.

    Raises:
        ValueError: a parameter out of its range.

    Source: Zhao et al., MixPro (ICLR 2023), MaskMix. Differs from the authors' code where the cells do not divide the
    image: lam is the share of the pixels that are shown, theirs counts cells cut off at the border as whole.
    """

    alpha: float = 1.0
    cell: int | None = None

    per_sample: ClassVar = True

    def __post_init__(self) -> None:
        check_alpha("MaskMix", self.alpha)
        check_cell(self.cell)

    def draw_shared(self, rng: random.Random) -> float:
        """Draw the share of cells that a row keeps: the same for every row of a batch."""
        return draw_beta(rng, self.alpha)

    def draw_with(self, shared: float, rng: random.Random, height: int, width: int) -> Row:
        """Draw which cells a row keeps, given their share."""
        cell = self.cell or min(56, default_cell(height, width, 4))
        h, w = grid_of(cell, height, width)
        taken = rng.sample(range(h * w), h * w - math.ceil(h * w * shared))
        return shape_row(Cells((h, w), tuple(sorted(taken)), cell), height, width)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw a share and cells for images of `height` x `width` pixels."""
        return self.draw_with(self.draw_shared(rng), rng, height, width)
