"""Random rectangles: what is cropped from an image, as torchvision draws it, and what is erased, as timm draws it."""

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from transmix.data.batch_augment import ERASED_AREA, ERASED_ASPECT, TRIES, Range, central_box

Rectangle = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

REDUCTIONS = 8, 4, 2, 1
"""A JPEG decoder can make an image so many times smaller while it decodes."""

MARGIN = 1
"""A reduced crop has at least so many times the side of the model's input."""


@dataclass(frozen=True)
class Box:
    """A part of an image, on a grid of `reduce` pixels, so that a decoder can make the image that much smaller.

    Attributes:
        top: first row, in steps of the grid; so are the others.
        left: first column.
        height: number of rows.
        width: number of columns.
        reduce: 1, 2, 4 or 8.
    """

    top: int
    left: int
    height: int
    width: int
    reduce: int = 1

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return a view of this part of (H, W, 3) pixels in their full size."""
        step = self.reduce
        rows, columns = (
            slice(first * step, (first + length) * step)
            for first, length in ((self.top, self.height), (self.left, self.width))
        )
        return image[rows, columns]


def whole_box(height: int, width: int, size: int) -> Box:
    """Return all of an image, but for what does not fill a step of the grid; `size` is the model's input in pixels."""
    return _on_grid((0, 0, height, width), height, width, size)


def crop_box(rng: Random, height: int, width: int, scale: Range, ratio: Range, size: int) -> Box:
    """Draw a random resized crop, as torchvision does, and round it to the grid of the image it is decoded at.

    Args:
        rng: generator.
        height: of the image in pixels.
        width: of the image in pixels.
        scale: area of the crop as a share of the image's, minimum and maximum.
        ratio: width by height, minimum and maximum.
        size: side of the model's input in pixels; it chooses the grid.
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(*scale)
        rows, columns = _sides(area, 1 / _log_uniform(rng, ratio))
        if 0 < rows <= height and 0 < columns <= width:
            place = rng.randint(0, height - rows), rng.randint(0, width - columns)
            return _on_grid((*place, rows, columns), height, width, size)
    return _on_grid(central_box((height, width), ratio), height, width, size)


def erased_box(rng: Random, size: int) -> Rectangle | None:
    """Draw the rectangle that is erased from an image of size x size, as timm does; None if none of its tries fits."""
    for _ in range(TRIES):
        rows, columns = _sides(size * size * rng.uniform(*ERASED_AREA), _log_uniform(rng, ERASED_ASPECT))
        if rows < size and columns < size:
            return rng.randint(0, size - rows), rng.randint(0, size - columns), rows, columns
    return None


def _log_uniform(rng: Random, limits: Range) -> float:
    return math.exp(rng.uniform(*map(math.log, limits)))


def _sides(area: float, aspect: float) -> tuple[int, int]:
    """Return the rows and columns of a rectangle; aspect is height by width."""
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _on_grid(box: Rectangle, height: int, width: int, size: int) -> Box:
    """Round a box to the coarsest grid on which it has at least MARGIN x size steps a side."""
    step = next(one for one in REDUCTIONS if one == 1 or min(box[2:]) >= MARGIN * size * one)
    top, left, rows, columns = (round(one / step) for one in box)
    rows, columns = min(rows, height // step), min(columns, width // step)
    return Box(min(top, height // step - rows), min(left, width // step - columns), rows, columns, step)
