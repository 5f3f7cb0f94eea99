"""SMMix: the partner's most attended square on the row's least attended one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.mixing.box import EMPTY, Box, box_area
from transmix.mixing.boxes import as_boxes, mix_boxes
from transmix.mixing.draw import Row
from transmix.mixing.maps import CleanMaps, check_maps
from transmix.mixing.mixed import Mixed, check_batch


@dataclass(frozen=True)
class SMMix:
    """Paste the partner's most attended square of patches on the row's least attended square.

    Args:
        low: smallest side of the square, as a fraction of the patch grid's shorter side; at least one patch.
        high: largest side; both are rounded down to whole patches.

    Raises:
        ValueError: a parameter out of its range.

    Source: Chen et al., SMMix (ICCV 2023). Differs from the authors' code: the patch grid need not be
    square, and an image that it does not divide keeps its border.
    """

    low: float = 0.25
    high: float = 0.75

    looks_at: ClassVar = "patches"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low and high must be two rising fractions in [0, 1], not {self.low} and {self.high}")

    def place(self, rngs: Mapping[int, random.Random], clean: CleanMaps) -> dict[int, Row]:
        """Draw a side for each row and place its square by the maps.

        Where the grid does not divide the image, a square of n patches has floor(n * H / h) x floor(n * W / w) pixels
        and starts at floor(y * H / h), floor(x * W / w): both squares have the same size.

        Args:
            rngs: row -> its generator, for the rows to mix; the same seed gives the same side.
            clean: the maps, of the attention from the patches.

        Raises:
            ValueError: maps that do not fit.
        """
        maps, grid, partner, (height, width) = clean
        check_maps(maps, grid, len(partner))
        high = int(min(grid) * self.high)
        if not high:
            return dict.fromkeys(rngs, Row(1.0, EMPTY))
        sides = {row: rng.randint(max(int(min(grid) * self.low), 1), high) for row, rng in rngs.items()}
        partners = torch.tensor(partner, device=maps.device)
        rows = {}
        for side in set(sides.values()):
            own, theirs = (at.tolist() for at in max_min_square(maps, partners, grid, side))
            for row in (row for row, its in sides.items() if its == side):
                box, source = (_box(at[row], side, grid, height, width) for at in (own, theirs))
                area = box_area(box)
                rows[row] = Row(1 - area / (height * width), box, source) if area else Row(1.0, EMPTY)
        return rows


def _box(at: Sequence[int], side: int, grid: tuple[int, int], height: int, width: int) -> Box:
    (y, x), (h, w) = at, grid
    top, left = y * height // h, x * width // w
    return top, left, top + side * height // h, left + side * width // w


def max_min_square(maps: Tensor, partner: Tensor, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Find each row's least attended square of patches, and its partner's most attended one.

    Args:
        maps: (B, P) of each row's own clean image, patches in row-major order.
        partner: (B,) int64.
        grid: (h, w).
        side: of the square, in patches.

    Returns:
        paste_at, taken_from: each (B, 2) int64, the top left patch (y, x) of the square; of several the first in
        row-major order.

    Raises:
        ValueError: maps that do not fit, or a square larger than the grid.

    Source: Chen et al., SMMix (ICCV 2023).
    """
    cells = check_maps(maps, grid)
    if not 1 <= side <= min(grid):
        raise ValueError(f"side must lie in [1, {min(grid)}] patches of a grid of {grid[0]} x {grid[1]}, not {side}")
    sums = F.avg_pool2d(cells[:, None], side, stride=1).flatten(1)
    across = grid[1] - side + 1
    least, most = (torch.stack((at // across, at % across), dim=1) for at in (sums.argmin(1), sums.argmax(1)))
    return least, most[partner]


def square_mix(
    images: Tensor,
    labels: Tensor,
    paste_at: Tensor,
    taken_from: Tensor,
    side: int,
    partner: Tensor | None = None,
) -> Mixed:
    """Paste a square of each row's partner in another place: lam = 1 - side^2 / (H * W).

    Args:
        images: (B, C, H, W), float or uint8.
        labels: (B,) integer classes or (B, K) float.
        paste_at: (B, 2), the top left pixel (y, x) of the square in each row.
        taken_from: (B, 2), that of the square in its partner.
        side: of the square, in pixels.
        partner: (B,) int64; None pairs row i with row B - 1 - i (flipped batch).

    Raises:
        ValueError: shapes that do not fit, or a square that leaves the image.

    Source: Chen et al., SMMix (ICCV 2023).
    """
    labels = check_batch(images, labels)
    for at in (paste_at, taken_from):
        if at.shape != (len(images), 2):
            raise ValueError(f"paste_at and taken_from must be ({len(images)}, 2) pixels, not {tuple(at.shape)}")
    if side < 0:
        raise ValueError(f"side is a number of pixels, not {side}")
    boxes, sources = (as_boxes(torch.cat((at, at + side), dim=1), images) for at in (paste_at, taken_from))
    return mix_boxes(images, labels, boxes, sources, partner)
