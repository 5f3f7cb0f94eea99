"""Augmentation of a single image: (H, W, 3) uint8 in, (3, S, S) uint8 out; and of its mask, to the same geometry.

An image stays an array: only RandAugment and colour jitter, which are Pillow's, make an image of it for a while.
"""

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn.functional import interpolate

from transmix.data.augment_1 import FirstAugmentation
from transmix.data.batch_augment import noise_levels
from transmix.data.boxes import Box, crop_box, erased_box, whole_box
from transmix.data.fit import EvaluationCrop as EvaluationCrop
from transmix.data.fit import fit, shift, to_tensor
from transmix.data.image_operations import rand_augment_policy
from transmix.data.seeding import python_generator
from transmix.data.settings import Augmentation

ChooseBox = Callable[[int, int], Box]
"""Height and width of an image -> the part of it that is needed."""

JITTER = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color


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
        self.settings, self.size, self.of_masks = settings, size, of_masks
        self.first = FirstAugmentation(settings, size, of_masks) if settings.pixel_version == 1 else None
        self.policy = None
        if settings.rand_augment is not None:
            self.policy = rand_augment_policy(settings, size, of_masks, fast=True)
        self.levels = noise_levels(settings.mean, settings.std).numpy()

    def __call__(self, image: np.ndarray, key: int) -> Tensor:
        """Augment an (H, W, 3) uint8 array; the same image and key give the same (3, S, S) uint8 tensor."""
        if self.first is not None:
            return self.first(image, key)
        return self.read(lambda choose: choose(*image.shape[:2]).cut(image), key)

    def read(self, part: Callable[[ChooseBox], np.ndarray], key: int) -> Tensor:
        """Augment an image of which only the part that is needed is decoded; with pixel_version 2.

        Args:
            part: a function from height and width to the box that is needed -> those pixels, (h, w, 3) uint8.
            key: of the sample.
        """
        rng = random.Random(key)
        image = self._fitted(part(partial(self._box, rng)), rng)
        if self.policy is not None:
            image = self._rand_augmented(image, rng)
        elif self.settings.color_jitter > 0 and not self.of_masks:
            image = self._jittered(image, random.Random(rng.getrandbits(62)))
        if rng.random() < self.settings.flip:
            image = image[:, ::-1]
        if self.settings.random_erasing > 0 and rng.random() < self.settings.random_erasing:
            image = self._erased(image, rng)
        return to_tensor(image)

    def _box(self, rng: random.Random, height: int, width: int) -> Box:
        settings = self.settings
        if settings.crop == "random-resized":
            return crop_box(rng, height, width, settings.crop_scale, settings.crop_ratio, self.size)
        return whole_box(height, width, self.size)

    def _fitted(self, part: np.ndarray, rng: random.Random) -> np.ndarray:
        """Bring the part of an image to (S, S, 3)."""
        match self.settings.crop:
            case "pad":
                return shift(fit(part, self.size), self.settings.pad, rng)
            case "none":
                return fit(part, self.size)
        return resized(part, self.size)

    def _rand_augmented(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """Apply timm's RandAugment. Its operations draw from Python's global generator, so that one is lent to them."""
        policy, drawn = self.policy, Image.fromarray(image)
        assert policy is not None
        if policy.choice_weights is None:
            operations = rng.choices(policy.ops, k=policy.num_layers)
        else:  # none of them twice then, as in timm
            generator = np.random.default_rng(rng.getrandbits(62))
            operations = generator.choice(policy.ops, policy.num_layers, replace=False, p=policy.choice_weights)
        with python_generator(rng.getrandbits(62)):
            for operation in operations:
                drawn = operation(drawn)
        return np.asarray(drawn)

    def _jittered(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """Change brightness, contrast and saturation, in any order and as much as torchvision's ColorJitter does."""
        strength, drawn = self.settings.color_jitter, Image.fromarray(image)
        for enhance in rng.sample(JITTER, len(JITTER)):
            drawn = enhance(drawn).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
        return np.asarray(drawn)

    def _erased(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """Erase a rectangle, as timm does: its noise is N(0, 1) of normalised pixels; 0 in masks."""
        box = erased_box(rng, self.size)
        if box is None:
            return image
        top, left, height, width = box
        image, noise = image.copy(), np.uint8(0)
        if not self.of_masks:
            draws = np.random.default_rng(rng.getrandbits(62)).integers(65536, size=(3, height, width), dtype=np.uint16)
            noise = np.stack([levels[draw] for levels, draw in zip(self.levels, draws, strict=True)], axis=-1)
        image[top : top + height, left : left + width] = noise
        return image


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Resize (h, w, 3) to (size, size, 3), bicubic and antialiased; at most one level from Pillow's resize."""
    if image.shape[:2] == (size, size):
        return image
    # torch's kernel for bytes takes a third of Pillow's time; from_numpy wants memory that it may write to
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    return interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
