"""Fit an image to the model's input: resize it, crop its centre, shift it; (H, W, 3) uint8 arrays."""

import math
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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
