"""Augmentation with pixel_version 1: what runs were started with before there was a version 2. Nothing else uses it."""

import random
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transmix.data.fit import fit, shift, to_tensor
from transmix.data.image_operations import rand_augment_policy
from transmix.data.seeding import global_generators
from transmix.data.settings import Augmentation


class FirstAugmentation:
    """`TrainingAugmentation` with pixel_version 1; arguments and errors are the same."""

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


def _library_transforms(settings: Augmentation, size: int, of_masks: bool) -> list[Callable]:
    """Return what timm and torchvision do to a PIL image, one after the other; with the same draws for its mask."""
    steps: list[Callable] = []
    if settings.crop == "random-resized":
        from torchvision.transforms import InterpolationMode, RandomResizedCrop

        bicubic = InterpolationMode.BICUBIC
        steps.append(RandomResizedCrop(size, settings.crop_scale, settings.crop_ratio, interpolation=bicubic))
    if settings.rand_augment is not None:
        steps.append(rand_augment_policy(settings, size, of_masks))
    elif settings.color_jitter > 0 and not of_masks:  # it comes last, so nothing after it misses its draws
        from torchvision.transforms import ColorJitter

        steps.append(ColorJitter(*[settings.color_jitter] * 3))
    return steps


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
