"""Boxes: where the partner's pixels go, in whole pixels, and how much of the image they cover."""

import math
import random

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, half-open: rows top..bottom-1, columns left..right-1."""

SourceBox = tuple[int, int, float, float]
"""(top, left, bottom, right) in the partner, half-open: as a box, but bottom and right may be fractions of a pixel."""

EMPTY: Box = (0, 0, 0, 0)


def box_area(box: SourceBox) -> float:
    """Return the number of pixels in a box."""
    top, left, bottom, right = box
    return (bottom - top) * (right - left)


def check_box(box: Box, height: int, width: int) -> Box:
    """Return the box as a tuple of ints.

    Raises:
        ValueError: the box is not four whole numbers, is turned inside out, or leaves the image.
    """
    if len(box) != 4 or any(int(side) != side for side in box):
        raise ValueError(f"a box is four whole numbers (top, left, bottom, right), not {box}")
    top, left, bottom, right = (int(side) for side in box)
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise ValueError(
            f"box (top {top}, left {left}, bottom {bottom}, right {right}) does not lie in an image of "
            f"height {height} and width {width}"
        )
    return top, left, bottom, right


def check_source(box: SourceBox, height: int, width: int) -> SourceBox:
    """Return a source box; its bottom and right may be fractions of a pixel.

    Raises:
        ValueError: as `check_box`.
    """
    top, left, bottom, right = box
    if not (math.isfinite(bottom) and math.isfinite(right)):
        raise ValueError(f"a source box is four finite numbers (top, left, bottom, right), not {box}")
    check_box((top, left, math.ceil(bottom), math.ceil(right)), height, width)
    return box


def draw_box(rng: random.Random, lam: float, height: int, width: int) -> Box:
    """Draw a CutMix box whose area is about `1 - lam` of the image.

    The box has the image's aspect ratio and a centre uniform over the pixels; what leaves the image is cut
    off, so the area can be smaller than `1 - lam`: the label must come from the box, not from `lam`.

    Source: Yun et al., CutMix (ICCV 2019), section 3.1 and its algorithm A1.
    """
    ratio = math.sqrt(1 - lam)
    box_height, box_width = int(height * ratio), int(width * ratio)
    top = rng.randrange(height) - box_height // 2
    left = rng.randrange(width) - box_width // 2
    return max(top, 0), max(left, 0), min(top + box_height, height), min(left + box_width, width)


def draw_box_minmax(rng: random.Random, minmax: tuple[float, float], height: int, width: int) -> Box:
    """Draw a box that lies inside the image, each side uniform between two fractions of the image's side."""
    low, high = minmax
    box_height = rng.randint(int(height * low), int(height * high))
    box_width = rng.randint(int(width * low), int(width * high))
    top = rng.randint(0, height - box_height)
    left = rng.randint(0, width - box_width)
    return top, left, top + box_height, left + box_width
