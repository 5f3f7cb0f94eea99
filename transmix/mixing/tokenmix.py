"""TokenMix: several blocks of tokens in the place of one box."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from transmix.mixing.cells import Cells, check_cell, default_cell, grid_of, shape_row
from transmix.mixing.draw import Row

ATTEMPTS = 10
"""So many blocks in a row may be refused before a mask is left as it is."""

ASPECT = math.log(1 / 0.3)
"""The logarithm of a block's height over its width is uniform up to this, in both directions."""


class Block(NamedTuple):
    """A block that is tried, in tokens; top and left are None where it is as large as the grid."""

    h: int
    w: int
    top: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class TokenMix:
    """Paste blocks of tokens until the partner has its share.

    The partner gets int((1 - lam) * tokens) + minimum tokens, or a few less where no block fits any more.

    Args:
        lam: share of the tokens that the row keeps, before `minimum`.
        minimum: tokens that the partner gets on top; None: 14 of 196, in proportion.
        cell: side of a token in pixels; None: the model's patch, where `transmix.TokenMix` or a recipe knows the model,
            else a fourteenth of the shorter side, rounded up (16 at 224).
        kind: "block", or "random" for single tokens anywhere.

    Raises:
        ValueError: a parameter out of its range.

    Source: Liu et al., TokenMix (ECCV 2022). The authors' code draws lam and then overwrites it by 0.5: so
    it is a setting here. Its grid is 14 x 14 of 224 pixels whatever the model; here it follows from the image.
    """

    lam: float = 0.5
    minimum: int | None = None
    cell: int | None = None
    kind: str = "block"

    cells_are_patches: ClassVar = True

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam is a share in [0, 1], not {self.lam}")
        if self.minimum is not None and not self.minimum >= 0:
            raise ValueError(f"minimum is a number of tokens, at least 0, not {self.minimum}")
        check_cell(self.cell)
        if self.kind not in ("block", "random"):
            raise ValueError(f"kind must be 'block' or 'random', not {self.kind!r}")

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw the partner's tokens for images of `height` x `width` pixels."""
        cell = self.cell or default_cell(height, width, 14)
        grid = h, w = grid_of(cell, height, width)
        wanted = _wanted(self.lam, grid, h * w * 14 // 196 if self.minimum is None else self.minimum)
        if self.kind == "random":
            taken = sorted(rng.sample(range(h * w), wanted))
        else:
            taken = _fill(lambda room: _draw_block(rng, room, grid), wanted, grid).flatten().nonzero()[:, 0].tolist()
        return shape_row(Cells(grid, tuple(taken), cell), height, width)


def token_blocks(draws: Iterable[Block], lam: float, grid: tuple[int, int], minimum: int = 0) -> Tensor:
    """Return the tokens that a series of blocks gives to the partner.

    A block counts if it is smaller than the grid along both axes, adds at least one token, and no more than are still
    wanted. Ten refused in a row end it.

    Args:
        draws: every block that is tried, in order.
        lam: share of the tokens that the row keeps, before `minimum`.
        grid: (h, w) of the tokens.
        minimum: tokens that the partner gets on top of int((1 - lam) * tokens).

    Returns:
        (h, w) bool, True where the token is the partner's.

    Source: Liu et al., TokenMix (ECCV 2022).
    """
    blocks = iter(draws)
    return _fill(lambda room: next(blocks, None), _wanted(lam, grid, minimum), grid)


def _wanted(lam: float, grid: tuple[int, int], minimum: int) -> int:
    tokens = grid[0] * grid[1]
    return min(tokens, int((1 - lam) * tokens) + minimum)


def _fill(attempt: Callable[[int], Block | None], wanted: int, grid: tuple[int, int]) -> Tensor:
    """Take blocks from `attempt(tokens still wanted)` until there are enough, none comes, or too many are refused."""
    taken = torch.zeros(grid, dtype=torch.bool)
    room, refused = wanted, 0
    while room and refused < ATTEMPTS and (block := attempt(room)) is not None:
        h, w, top, left = block
        inside = taken[:0] if top is None or left is None else taken[top : top + h, left : left + w]
        new = inside.numel() - int(inside.sum())
        if 0 < new <= room and h < grid[0] and w < grid[1]:
            inside.fill_(True)
            room, refused = room - new, 0
        else:
            refused += 1
    return taken


def _draw_block(rng: random.Random, room: int, grid: tuple[int, int]) -> Block:
    area, aspect = rng.uniform(1, room), math.exp(rng.uniform(-ASPECT, ASPECT))
    h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if h >= grid[0] or w >= grid[1]:
        return Block(h, w)
    return Block(h, w, rng.randint(0, grid[0] - h), rng.randint(0, grid[1] - w))
