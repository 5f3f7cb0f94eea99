"""RandAugment's operations on a batch, each sample with its own; the pixels are those of Pillow and timm.

Everything is computed in integers, or in float32 that is exact: results are bit-identical on every device, compiled or
not, and for any batch size. They differ from Pillow's by at most one level; but a pixel whose place is on
the image's very edge may be filled in one and not in the other.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from transmix.data.batch_pixels import blended, greys, mean_of
from transmix.data.rand_augment import (
    AUTO_CONTRAST,
    BRIGHTNESS,
    COLOUR,
    CONTRAST,
    EQUALIZE,
    FACTOR,
    INVERT,
    MOVE,
    POSTERIZE,
    SOLARIZE,
    SOLARIZE_ADD,
    UNIT,
)

PLACE_BITS, WEIGHT_BITS = 10, 11
"""Places are multiples of 2**-10 pixels, so that their cubes fit int32; weights of 2**-11, so that two of them and a
pixel do."""

LANE = 21
"""The three colours of a pixel share an int64, of whose bits each has so many: a third of the reads."""

SOLARIZE_ADD_BELOW = 128
"""timm's threshold."""


def operated(images: Tensor, operations: Tensor, arguments: Tensor, fill: Tensor) -> Tensor:
    """Apply each sample's operations, layer by layer.

    Args:
        images: (n, 3, H, W) uint8.
        operations: (n, L) int64, one of `rand_augment.OPERATIONS` or NOTHING.
        arguments: (n, L, 6) int64, as in `rand_augment.Policy`.
        fill: (3,) uint8, what comes in from outside.
    """
    for operation, argument in zip(operations.unbind(1), arguments.unbind(1), strict=True):
        by_table = (operation > MOVE) & (operation < COLOUR)
        images = _changed(images, operation == MOVE, partial(moved, fill=fill), argument)
        images = _changed(images, by_table, looked_up, operation, argument[:, 0])
        images = _changed(images, operation >= COLOUR, enhanced, operation, argument[:, 0])
    return images


def moved_alone(masks: Tensor, operations: Tensor, arguments: Tensor) -> Tensor:
    """Move masks (n, C, H, W) uint8 as `operated` moves their images; what comes in from outside is 0."""
    outside = torch.zeros(masks.shape[1], dtype=torch.uint8, device=masks.device)
    for operation, argument in zip(operations.unbind(1), arguments.unbind(1), strict=True):
        masks = _changed(masks, operation == MOVE, partial(moved, fill=outside), argument)
    return masks


def _changed(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Return images with `change` of those that are chosen (n,) bool, and of their arguments."""
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(chosen[:, None, None, None], change(images, *arguments), images)
    rows = chosen.nonzero()[:, 0]  # a GPU would have to be waited for; a CPU is spared the rest
    if len(rows) == 0:
        return images
    return images.index_copy(0, rows, change(images[rows], *(one[rows] for one in arguments)))


# Geometry.


def moved(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Move pixels by an affine map, as Pillow's `transform` does, bicubic.

    Args:
        images: (n, C, H, W) uint8.
        matrices: (n, 6) int64, multiples of 1 / UNIT: (a, b, c, d, e, f), where the pixel whose centre is (x, y) comes
            from (ax + by + c, dx + ey + f).
        fill: (C,) uint8, where that is outside the image.
    """
    count, channels, height, width = images.shape
    x = 2 * torch.arange(width, device=images.device) + 1  # centres lie at halves
    y = (2 * torch.arange(height, device=images.device) + 1)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    across, down = a * x + b * y + 2 * c, d * x + e * y + 2 * f  # multiples of half a UNIT
    inside = (across >= 0) & (across < 2 * UNIT * width) & (down >= 0) & (down < 2 * UNIT * height)
    (rows, down_weights), (columns, across_weights) = _taps(down, height), _taps(across, width)
    first = torch.arange(count, dtype=torch.int32, device=images.device)[:, None, None] * (height * width)
    rows = [row.mul_(width).add_(first) for row in rows]
    lanes = (torch.arange(channels, device=images.device) * LANE)[:, None, None]
    packed, above_0 = (images.long() << lanes).sum(1).flatten(), sum(1 << LANE * n + LANE - 3 for n in range(channels))
    across_weights = [weight.long() for weight in across_weights]
    sums = torch.zeros_like(images, dtype=torch.int32)
    for row, by_row in zip(rows, down_weights, strict=True):
        line = torch.full_like(across, above_0)
        for column, by_column in zip(columns, across_weights, strict=True):
            line.add_(packed.index_select(0, (row + column).flatten()).view_as(line).mul_(by_column))
        unpacked = (line[:, None] >> lanes).bitwise_and_((1 << LANE) - 1).int().sub_(1 << LANE - 3)
        sums.add_(unpacked.mul_(by_row[:, None]))
    pixels = (sums >> 2 * WEIGHT_BITS).clamp_(0, 255).byte()
    return torch.where(inside[:, None], pixels, fill[:, None, None])


def _taps(place: Tensor, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the four pixels around each place, and their weights: int32, of the place's shape.

    The weights are Keys' cubic with a = -1, which Pillow's `transform` has, and sum to 2**WEIGHT_BITS.

    Args:
        place: int64, multiples of half a UNIT from the image's edge.
        length: of the image; pixels outside it are those at its edge.
    """
    finer = (2 * UNIT >> PLACE_BITS).bit_length() - 1
    place = ((place - UNIT + (1 << finer - 1)) >> finer).int()  # from the first pixel's centre
    before, t = place >> PLACE_BITS, place & (1 << PLACE_BITS) - 1
    square, cube = (t * t) << PLACE_BITS, t * t * t
    t = t << 2 * PLACE_BITS  # all three in multiples of 2**(-3 * PLACE_BITS)
    less = 3 * PLACE_BITS - WEIGHT_BITS
    outer = (square - t + square - cube, t + square - cube, cube - square)
    first, third, fourth = (one.add_(1 << less - 1) >> less for one in outer)
    weights = [first, (1 << WEIGHT_BITS) - first - third - fourth, third, fourth]
    return [(before + tap).clamp_(0, length - 1) for tap in (-1, 0, 1, 2)], weights


# Lookup tables.


def looked_up(images: Tensor, operation: Tensor, argument: Tensor) -> Tensor:
    """Replace each value of (n, C, H, W) uint8 by what the sample's table has for it."""
    values = images.flatten(2).long()
    tables = _tables(_counts(values), operation[:, None, None], argument[:, None, None])
    return tables.byte().gather(2, values).view_as(images)


def _counts(values: Tensor) -> Tensor:
    """Return how often each of 256 values comes in values (n, C, P) int64: (n, C, 256) int64."""
    counts = values.new_zeros(*values.shape[:2], 256, dtype=torch.int32)
    return counts.scatter_add(2, values, torch.ones_like(values, dtype=torch.int32)).long()


def _tables(counts: Tensor, operation: Tensor, argument: Tensor) -> Tensor:
    """Return the table of each sample and channel (n, C, 256) int64, in [0, 255].

    Args:
        counts: (n, C, 256) int64.
        operation: (n, 1, 1) int64.
        argument: (n, 1, 1) int64, bits to keep, threshold, or what is added.
    """
    value = torch.arange(256, device=counts.device).expand_as(counts)
    added = torch.where(value < SOLARIZE_ADD_BELOW, (value + argument).clamp(max=255), value)
    tables = {
        INVERT: 255 - value,
        POSTERIZE: value & (0xFF00 >> argument.clamp(0, 8)),
        SOLARIZE: torch.where(value < argument, value, 255 - value),
        SOLARIZE_ADD: added,
        AUTO_CONTRAST: _stretched(counts, value),
        EQUALIZE: _equalized(counts, value),
    }
    for code, table in tables.items():
        value = torch.where(operation == code, table, value)
    return value


def _stretched(counts: Tensor, value: Tensor) -> Tensor:
    """Return tables that map the least value that comes to 0 and the greatest to 255."""
    comes = counts > 0
    low = torch.where(comes, value, 255).amin(2, keepdim=True)
    high = torch.where(comes, value, 0).amax(2, keepdim=True)
    stretched = ((value - low) * 255 // (high - low).clamp(min=1)).clamp(0, 255)
    return torch.where(high > low, stretched, value)


def _equalized(counts: Tensor, value: Tensor) -> Tensor:
    """Return tables that make every value about as frequent as any other, by Pillow's rule."""
    before = counts.cumsum(2) - counts
    high = torch.where(counts > 0, value, 0).amax(2, keepdim=True)
    step = before.gather(2, high) // 255  # all pixels but those of the greatest value
    equal = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, equal, value)


# Blends.


def enhanced(images: Tensor, operation: Tensor, argument: Tensor) -> Tensor:
    """Change colour, contrast, brightness or sharpness of (n, 3, H, W) uint8 as Pillow's ImageEnhance does."""
    operation, factor = operation[:, None, None, None], argument[:, None, None, None].float() / FACTOR
    grey = greys(images)
    lesser = torch.where(operation == COLOUR, grey, smooth(images))
    lesser = torch.where(operation == CONTRAST, mean_of(grey), lesser)
    return blended(images, torch.where(operation == BRIGHTNESS, 0.0, lesser), factor)


def smooth(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) uint8 smoothed by Pillow's filter SMOOTH, as float32; pixels at the border stay.

    The filter weighs a pixel by 5/13 and its eight neighbours by 1/13.
    """
    pixels = images.int()
    if min(images.shape[2:]) < 3:
        return pixels.float()
    lines = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    sums = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    inner = (2 * sums + 13) // 26
    middle = torch.cat([pixels[:, :, 1:-1, :1], inner, pixels[:, :, 1:-1, -1:]], 3)
    return torch.cat([pixels[:, :, :1], middle, pixels[:, :, -1:]], 2).float()
