"""Batched version of `augment` on the device: first draw for all samples, then change all pixels.

Draws are integers, or lookup tables indexed by integers. They have the same distributions as in torchvision and timm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from transmix.data.batch_operations import moved_alone, operated
from transmix.data.batch_pixels import erase, jittered, resized_crop, shifted
from transmix.data.philox import (
    BOX,
    CROP,
    JITTER,
    LAYER,
    PLACE,
    below,
    chance,
    fraction,
    middle_fractions,
    seed_keys,
    words,
)
from transmix.data.rand_augment import batch_policy, fill_of
from transmix.data.settings import Augmentation

Size = tuple[int, int]
"""Height and width in pixels."""

Range = tuple[float, float]
"""From and to."""

TRIES = 10
"""So many rectangles are tried, here as in torchvision's crop and in timm's erasing."""

ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""timm's: share of the image, and height by width."""

ORDERS = (0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)
"""In which brightness, contrast and saturation follow each other."""

STEPS = 4096
"""Jitter's factors are multiples of 1/4096: a factor times a difference of pixels is then exact in float32."""

PIECE = {"cpu": 1 << 19, "cuda": 1 << 22}
"""Pixels that are worked on at once: what fits a CPU's cache, and what a GPU has memory for."""


@dataclass(frozen=True)
class Draws:
    """Random parameters for n samples; None: this augmentation is off.

    Attributes:
        samples: (n, 3) int64, (epoch, index, repeat), the key of the erasing noise.
        shift: (n, 2) int64, shift in rows (up) and columns (left).
        crop: (n, 4) int64, top, left, height and width in the stored image.
        operations: (n, L) int64, RandAugment's operation in each layer, as `rand_augment` numbers them; 0: none.
        arguments: (n, L, 6) int64, of the operations.
        order: (n, 3) int64, permutation of brightness 0, contrast 1 and saturation 2.
        factors: (n, 3) float32, of brightness, contrast and saturation.
        flip: (n,) bool.
        erased: (n, 4) int64, top, left, height and width; zeros if nothing is erased.
    """

    samples: Tensor
    shift: Tensor | None = None
    crop: Tensor | None = None
    operations: Tensor | None = None
    arguments: Tensor | None = None
    order: Tensor | None = None
    factors: Tensor | None = None
    flip: Tensor | None = None
    erased: Tensor | None = None

    def __getitem__(self, rows: slice) -> "Draws":
        parts = (getattr(self, field.name) for field in fields(self))
        return Draws(*(part if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


class BatchAugmentation:
    """Crop, RandAugment or colour jitter, flip and erasing of a batch; all random choices follow from samples' keys.

    Args:
        settings: augmentation settings.
        source: height and width of the input; (S, S) except for crop 'random-resized'.
        size: S, side of the output in pixels.
        seed: run seed.
        device: device of the images.

    Raises:
        RecipeError: a RandAugment policy that timm does not know, or that batches lack.
    """

    def __init__(self, settings: Augmentation, source: Size, size: int, seed: int, device: torch.device | str):
        self.settings, self.source, self.size, self.keys = settings, source, size, seed_keys(seed)
        self.aspects = log_uniform(*ERASED_ASPECT).to(device)
        self.crop_aspects = log_uniform(*settings.crop_ratio).to(device)
        self.noise = noise_levels(settings.mean, settings.std).to(device)
        self.orders = torch.tensor(ORDERS, device=device)
        self.policy = None if settings.rand_augment is None else batch_policy(settings, size, device)
        self.fill = torch.tensor(fill_of(settings), dtype=torch.uint8, device=device)

    def draw(self, samples: Tensor) -> Draws:
        """Decide what is done to samples (n, 3) int64, (epoch, index, repeat) a row, on their device."""
        settings, size = self.settings, (self.size, self.size)
        rows, columns, flip, erase = words(samples, self.keys, PLACE)[:, 0].unbind(1)
        shift = crop = operations = arguments = order = factors = erased = None
        if settings.crop == "pad":
            shift = torch.stack([below(one, 2 * settings.pad + 1) - settings.pad for one in (rows, columns)], 1)
        elif settings.crop == "random-resized":
            tried = words(samples, self.keys, CROP, TRIES)
            crop = crop_boxes(tried, self.source, settings.crop_scale, settings.crop_ratio, self.crop_aspects)
        if self.policy is not None:
            operations, arguments = self.policy.draw(words(samples, self.keys, LAYER, self.policy.layers))
        elif settings.color_jitter > 0:
            which, *strengths = words(samples, self.keys, JITTER)[:, 0].unbind(1)
            order = self.orders[below(which, len(ORDERS))]
            factors = jitter_factors(torch.stack(strengths, 1), settings.color_jitter)
        if settings.random_erasing > 0:
            boxes = erased_boxes(words(samples, self.keys, BOX, TRIES), size, self.aspects)
            erased = boxes * chance(erase, settings.random_erasing)[:, None]
        flipped = chance(flip, settings.flip) if settings.flip > 0 else None
        return Draws(samples, shift, crop, operations, arguments, order, factors, flipped, erased)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Apply drawn augmentations to images (n, 3, H, W) uint8; return (n, 3, S, S) uint8."""
        return _by_pieces(self._apply, images, draws)

    def apply_to_masks(self, masks: Tensor, draws: Draws) -> Tensor:
        """Move masks (n, C, H, W) uint8, 255 on the foreground, as `apply` moves images; what is erased becomes 0."""
        return _by_pieces(self._apply_to_masks, masks, draws)

    def _apply(self, images: Tensor, draws: Draws) -> Tensor:
        images = self._placed(images, draws)
        if draws.operations is not None and draws.arguments is not None:
            images = operated(images, draws.operations, draws.arguments, self.fill)
        if draws.order is not None and draws.factors is not None:
            images = jittered(images, draws.order, draws.factors)
        images = _flipped(images, draws)
        if draws.erased is None:
            return images
        if images.device.type != "cpu" or torch.compiler.is_compiling():
            return erase(images, draws.erased, draws.samples, self.keys, self.noise)
        rows = draws.erased[:, 2].nonzero()[:, 0]  # a GPU would have to be waited for; a CPU is spared noise
        some = erase(images[rows], draws.erased[rows], draws.samples[rows], self.keys, self.noise)
        return images.index_copy(0, rows, some)

    def _apply_to_masks(self, masks: Tensor, draws: Draws) -> Tensor:
        masks = self._placed(masks, draws)
        if draws.operations is not None and draws.arguments is not None:
            masks = moved_alone(masks, draws.operations, draws.arguments)
        masks = _flipped(masks, draws)
        if draws.erased is None:
            return masks
        sides = torch.arange(self.size, device=masks.device)
        top, left, height, width = draws.erased.T[..., None]
        rows, columns = (
            (sides >= start) & (sides < start + length) for start, length in ((top, height), (left, width))
        )
        return masks * ~(rows[:, None, :, None] & columns[:, None, None, :])

    def _placed(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop or shift images as drawn."""
        if draws.crop is not None:
            return resized_crop(images, draws.crop, self.size)
        return images if draws.shift is None else shifted(images, draws.shift)


def _by_pieces(change: Callable[[Tensor, Draws], Tensor], images: Tensor, draws: Draws) -> Tensor:
    """Return `change` of all images, some at a time; compiled code needs no memory for the steps in between."""
    rows = max(1, PIECE.get(images.device.type, PIECE["cuda"]) // (images.shape[2] * images.shape[3]))
    if torch.compiler.is_compiling() or len(images) <= rows:
        return change(images, draws)
    pieces = [slice(start, start + rows) for start in range(0, len(images), rows)]
    return torch.cat([change(images[one], draws[one]) for one in pieces])


def _flipped(images: Tensor, draws: Draws) -> Tensor:
    return images if draws.flip is None else torch.where(draws.flip[:, None, None, None], images.flip(3), images)


def log_uniform(low: float, high: float) -> Tensor:
    """Return quantiles (65536,) float64 of a number whose logarithm is uniform."""
    return (math.log(low) + math.log(high / low) * middle_fractions()).exp()


def noise_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return quantiles (3, 65536) uint8 of erasing's noise: N(0, 1) of normalised pixels, clipped to what they can be.

    Args:
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
    """
    normal = torch.special.ndtri(middle_fractions())
    levels = [(normal * deviation + middle) * 255 for middle, deviation in zip(mean, std, strict=True)]
    return torch.stack(levels).round().clamp(0, 255).byte()


def crop_boxes(tried: Tensor, source: Size, scale: Range, ratio: Range, aspects: Tensor) -> Tensor:
    """Return top, left, height and width (n, 4) int64 of random resized crops, as torchvision draws them.

    Args:
        tried: words (n, tries, 4).
        source: height and width of the image.
        scale: area of the crop as a share of the image's, minimum and maximum.
        ratio: width by height, minimum and maximum.
        aspects: quantiles (65536,) of width by height.
    """
    height, width = source
    columns, rows = _sides(tried, source, scale, aspects)
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    return _first(tried, (rows, columns), source, fits, central_box(source, ratio))


def central_box(source: Size, ratio: Range) -> tuple[int, int, int, int]:
    """Return the box that torchvision takes where none of its tries fits."""
    height, width = source
    rows, columns = height, width
    if width / height < min(ratio):
        rows = round(width / min(ratio))
    elif width / height > max(ratio):
        columns = round(height * max(ratio))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def erased_boxes(tried: Tensor, size: Size, aspects: Tensor) -> Tensor:
    """Return top, left, height and width (n, 4) int64 of erased rectangles, as timm draws them; zeros if none fits.

    Args:
        tried: words (n, tries, 4).
        size: height and width of the image.
        aspects: quantiles (65536,) of height by width.
    """
    rows, columns = _sides(tried, size, ERASED_AREA, aspects)
    return _first(tried, (rows, columns), size, (rows < size[0]) & (columns < size[1]), (0, 0, 0, 0))


def _sides(tried: Tensor, size: Size, share: Range, aspects: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sides (n, tries) int64 of rectangles: one multiplied and one divided by the aspect."""
    area = size[0] * size[1] * (share[0] + (share[1] - share[0]) * fraction(tried[..., 0]))
    aspect = aspects[tried[..., 1] >> 16]
    return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


def _first(tried: Tensor, sides: tuple[Tensor, Tensor], size: Size, fits: Tensor, otherwise: tuple[int, ...]) -> Tensor:
    """Place rectangles of (n, tries) rows and columns in an image, and return the first that fits of each n, (n, 4)."""
    top, left = (below(tried[..., at + 2], size[at] - sides[at] + 1) for at in (0, 1))
    first = (fits * torch.arange(fits.shape[1], 0, -1, device=fits.device)).argmax(1)
    found = torch.stack([top, left, *sides], -1).take_along_dim(first[:, None, None], 1)[:, 0]
    some = fits.any(1)
    return torch.stack([torch.where(some, one, last) for one, last in zip(found.unbind(1), otherwise, strict=True)], 1)


def jitter_factors(words: Tensor, strength: float) -> Tensor:
    """Return factors (n, 3) float32, uniform around 1 and not below 0, of words (n, 3)."""
    low, high = round(max(0.0, 1 - strength) * STEPS), round((1 + strength) * STEPS)
    return (low + below(words, high - low + 1)).float() / STEPS
