"""Augmentation of a single image: (H, W, 3) uint8 in, (3, S, S) uint8 out; and of its mask, to the same geometry."""

import math
import random
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from transmix.data.rand_augment import timm_policy
from transmix.data.seeding import global_generators
from transmix.data.settings import Augmentation

GEOMETRIC = "Rotate", "Shear", "Translate"
"""How the names of those operations of RandAugment begin that move pixels; the others change colours."""


class TrainingAugmentation:
    """Crop, flip, colour jitter and erasing of one training image; all random choices follow from the sample's key.

    Args:
        settings: augmentation settings.
        size: S, side of the output in pixels.
        of_masks: the images are masks, drawn white on black. The same key moves them as it moves an image; colours
            stay, and what is erased or comes in from outside is black.

    Raises:
        ValueError: an unknown RandAugment policy.
    """

    def __init__(self, settings: Augmentation, size: int, of_masks: bool = False):
        self.settings = settings
        self.size = size
        self.pixel_level = _library_transforms(settings, size, of_masks)
        self.erase = _erasing(settings, of_masks) if settings.random_erasing > 0 else None

    def __call__(self, image: np.ndarray, key: int) -> Tensor:
        """Augment an (H, W, 3) uint8 array; the same image and key give the same (3, S, S) uint8 tensor."""
        rng = random.Random(key)
        if self.settings.crop == "pad":
            image = shift(fit(image, self.size), self.settings.pad, rng)
        elif self.settings.crop == "none":
            image = fit(image, self.size)
        if self.pixel_level:
            with global_generators(rng.getrandbits(62)):
                image = np.asarray(reduce(lambda seen, change: change(seen), self.pixel_level, Image.fromarray(image)))
        if rng.random() < self.settings.flip:
            image = image[:, ::-1]
        if self.erase is not None and rng.random() < self.settings.random_erasing:
            with global_generators(rng.getrandbits(62)):
                image = self.erase(image)
        return to_tensor(image)


class EvaluationCrop:
    """Deterministic evaluation crop: resize the shorter side to size / crop, bicubic, then crop the centre.

    Args:
        size: S.
        crop: fraction of the resized image's side that is kept (DeiT: 0.875).
    """

    def __init__(self, size: int, crop: float):
        self.size = size
        self.resized = math.floor(size / crop)

    def __call__(self, image: np.ndarray) -> Tensor:
        """Crop an (H, W, 3) uint8 array to a (3, S, S) uint8 tensor."""
        return to_tensor(centre(resize_shorter_side(image, self.resized), self.size))


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image of size x size: itself, or its resized centre."""
    return image if image.shape[:2] == (size, size) else centre(resize_shorter_side(image, size), size)


def resize_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Resize (H, W, 3) so that its shorter side has `side` pixels, bicubic.

    An image more than 16 times as long as wide is cropped to its middle first: one of 1 x 50,000 pixels would fill the
    memory, and its ends are never in the centre crop.
    """
    shorter = min(image.shape[:2])
    most = 16 * shorter
    top, left = (max(0, length - most) // 2 for length in image.shape[:2])
    image = image[top : top + most, left : left + most]
    height, width = image.shape[:2]
    if shorter == side:
        return image
    size = (width * side // shorter, height * side // shorter)  # rounded down, as in torchvision
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def centre(image: np.ndarray, size: int) -> np.ndarray:
    """Return the size x size pixels in the middle of (H, W, 3)."""
    top, left = (round((length - size) / 2) for length in image.shape[:2])  # a half to even, as in torchvision
    return image[top : top + size, left : left + size]


def shift(image: np.ndarray, pad: int, rng: random.Random) -> np.ndarray:
    """Shift the image by up to `pad` pixels in each direction; the border is filled by reflection."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    top, left = rng.randint(0, 2 * pad), rng.randint(0, 2 * pad)
    return padded[top : top + height, left : left + width]


def to_tensor(image: np.ndarray) -> Tensor:
    """Copy (H, W, 3) uint8 to a (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _library_transforms(settings: Augmentation, size: int, of_masks: bool) -> list[Callable]:
    """Return what timm and torchvision do to a PIL image, one after the other; with the same draws for its mask."""
    steps: list[Callable] = []
    if settings.crop == "random-resized":
        from torchvision.transforms import InterpolationMode, RandomResizedCrop

        bicubic = InterpolationMode.BICUBIC
        steps.append(RandomResizedCrop(size, settings.crop_scale, settings.crop_ratio, interpolation=bicubic))
    if settings.rand_augment is not None:
        policy = timm_policy(settings, size, of_masks)
        for operation in policy.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
            if of_masks and not operation.name.startswith(GEOMETRIC):
                operation.aug_fn = partial(_without_change, operation.aug_fn)
        steps.append(policy)
    elif settings.color_jitter > 0 and not of_masks:  # it comes last, so nothing after it misses its draws
        from torchvision.transforms import ColorJitter

        steps.append(ColorJitter(*[settings.color_jitter] * 3))
    return steps


def _without_change(operation: Callable, image: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
    """Return the image itself; the operation runs all the same, because it may draw random numbers."""
    operation(image, *args, **kwargs)
    return image


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the upper bits of each pixel, none of them at timm's full strength: Pillow once gave black, 13 raises."""
    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def _erasing(settings: Augmentation, of_masks: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """Return timm's random erasing, always on, for uint8: its noise is N(0, 1) of normalised pixels; 0 in masks."""
    from timm.data.random_erasing import RandomErasing

    erasing = RandomErasing(probability=1.0, mode="pixel", device="cpu")
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.mean, settings.std))

    def erase(image: np.ndarray) -> np.ndarray:
        noise = erasing(torch.full((3, *image.shape[:2]), torch.nan))  # on no image: what is erased is then known
        erased = np.isfinite(noise[0].numpy())
        rows, columns = (np.flatnonzero(erased.any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            return image
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        pixels = (noise[:, *box] * std + mean) * 255
        image = image.copy()
        image[box] = 0 if of_masks else pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return image

    return erase
