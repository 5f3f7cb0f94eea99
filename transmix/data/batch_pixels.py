"""Pixel operations on a batch, with separate parameters for each sample.

Results are bit-identical on CPU and GPU and for any batch size, because no rounding depends on the order of
operations. For the same draws they equal Pillow's results.
"""

import torch
from torch import Tensor

from transmix.data.philox import NOISE, words

PILLOW_BITS = 22
"""Pillow's resize weighs pixels by multiples of 2**-22."""


def shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Shift images (n, C, H, W) up and left by (n, 2); the border is filled by reflection."""
    height, width = images.shape[2:]
    rows = _mirror(torch.arange(height, device=images.device) + shift[:, :1], height)
    columns = _mirror(torch.arange(width, device=images.device) + shift[:, 1:], width)
    places = (rows[:, :, None] * width + columns[:, None]).flatten(1)[:, None]
    pixels = images.flatten(2)
    return pixels.gather(2, places.expand_as(pixels)).view_as(images)


def _mirror(places: Tensor, length: int) -> Tensor:
    """Map positions into [0, length) by reflection at both ends."""
    period = max(2 * (length - 1), 1)
    places = places % period
    return torch.where(places < length, places, period - places)


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box (n, 4) out of each image (n, C, H, W) uint8 and resize it to (n, C, S, S) as Pillow does, bicubic.

    Sums are over integers in float64, which are exact in any order.
    """
    top, left, height, width = boxes.unbind(1)
    across = _weights(left, width, images.shape[3], size)
    down = _weights(top, height, images.shape[2], size)
    narrow = _to_pixels(images.double().flatten(1, 2) @ across.mT).unflatten(1, images.shape[1:3])
    low = _to_pixels(narrow.mT.flatten(1, 2) @ down.mT).unflatten(1, (-1, size))  # (n, C, S across, S down)
    return low.byte().mT.contiguous()


def _to_pixels(sums: Tensor) -> Tensor:
    return sums.div_(2**PILLOW_BITS).add_(0.5).floor_().clamp_(0, 255)


def _weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Return the weight of each source pixel in each output pixel: (n, S, source), integers in float64.

    Args:
        start: (n,) int64, first source pixel.
        length: (n,) int64, number of source pixels.
        source: size of the source in pixels.
        size: S.
    """
    scale = length.double()[:, None] / size
    widened = scale.clamp(min=1)[:, :, None]  # to average where there are fewer pixels than before
    centre = (torch.arange(size, device=start.device) + 0.5) * scale
    place = torch.arange(source, device=start.device) - start[:, None]
    seen = (place >= 0) & (place < length[:, None])
    weight = _cubic((place[:, None] - centre[:, :, None] + 0.5).div_(widened).abs_()).mul_(seen[:, None])
    return weight.div_(weight.sum(2, keepdim=True)).mul_(2**PILLOW_BITS).round_()


def _cubic(x: Tensor) -> Tensor:
    """Return the value of Pillow's bicubic filter at distances x: Keys' with a = -0.5."""
    inner = (1.5 * x).sub_(2.5).mul_(x).mul_(x).add_(1)
    x = x.clamp(max=2)
    outer = (x - 5).mul_(x).add_(8).mul_(x).sub_(4).mul_(-0.5)
    return torch.where(x < 1, inner, outer)


def jittered(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of (n, 3, H, W) uint8 as Pillow's ImageEnhance does.

    Each blends the image with a degraded one: black, its mean grey, or its greyscale version.

    Args:
        images: (n, 3, H, W) uint8.
        order: (n, 3) int64, in which order brightness 0, contrast 1 and saturation 2 are changed.
        factors: (n, 3) float32, multiples of 1/4096, of brightness, contrast and saturation.
    """
    for kind in order.unbind(1):
        grey, kind = greys(images), kind[:, None, None, None]
        lesser = torch.where(kind == 0, 0.0, torch.where(kind == 1, mean_of(grey), grey))
        images = blended(images, lesser, factors.take_along_dim(kind[:, :, 0, 0], 1)[:, :, None, None])
    return images


def greys(images: Tensor) -> Tensor:
    """Return images (n, 3, H, W) uint8 in grey as Pillow converts them, (n, 1, H, W) float32."""
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).float()[:, None]


def mean_of(grey: Tensor) -> Tensor:
    """Return the mean grey of (n, 1, H, W), rounded: (n, 1, 1, 1) float32."""
    return (grey.mean((1, 2, 3), dtype=torch.float64) + 0.5).floor().float()[:, None, None, None]


def blended(images: Tensor, lesser: Tensor, factor: Tensor) -> Tensor:
    """Return (n, 3, H, W) uint8 between `lesser` (factor 0) and `images` (factor 1) or beyond, cut off as in Pillow.

    Args:
        images: (n, 3, H, W) uint8.
        lesser: whole numbers in float32, of a shape that broadcasts.
        factor: (n, 1, 1, 1) float32, multiples of 1/4096.
    """
    return (lesser + factor * (images - lesser)).clamp(0, 255).byte()


def erase(images: Tensor, boxes: Tensor, samples: Tensor, keys: tuple[int, int], levels: Tensor) -> Tensor:
    """Fill a box (n, 4) of each of (n, 3, H, W) uint8 with noise that follows from the sample.

    Args:
        images: (n, 3, H, W) uint8.
        boxes: (n, 4) int64, top, left, height and width.
        samples: (n, 3) int64, (epoch, index, repeat).
        keys: Philox keys of the run.
        levels: quantiles (3, 65536) uint8 of each channel's noise.
    """
    count, _, height, width = images.shape
    values = 3 * height * width
    drawn = words(samples, keys, NOISE, -(-values // 8)).flatten(1)
    drawn = torch.cat([drawn >> 16, drawn & 0xFFFF], 1)[:, :values].view(count, 3, height * width)
    drawn = drawn + torch.arange(0, 3 << 16, 1 << 16, device=drawn.device)[:, None]  # each channel's own quantiles
    noise = levels.flatten().index_select(0, drawn.flatten()).view_as(images)
    top, left, rows, columns = boxes[:, :, None, None].unbind(1)
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
    return torch.where(inside[:, None], noise, images)
