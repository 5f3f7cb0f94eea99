"""timm's RandAugment policy: its operations, those that move pixels a few times as fast, and the same for masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from transmix.data.rand_augment import timm_policy
from transmix.data.settings import Augmentation

GEOMETRIC = "Rotate", "Shear", "Translate"
"""How the names of those operations of RandAugment begin that move pixels; the others change colours."""


def rand_augment_policy(settings: Augmentation, size: int, of_masks: bool = False, fast: bool = False) -> Any:
    """Return timm's RandAugment for PIL images of size x size.

    Args:
        settings: augmentation settings.
        size: S in pixels.
        of_masks: colours stay as they are; what an operation draws is drawn all the same.
        fast: shear and translate with `shift_rows`.

    Raises:
        ValueError: timm does not know the policy.
    """
    policy = timm_policy(settings, size, of_masks)
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize
        if fast and operation.name.startswith(("Shear", "Translate")):
            operation.aug_fn = partial(_moved, operation.name)
        if of_masks and not operation.name.startswith(GEOMETRIC):
            operation.aug_fn = partial(_without_change, operation.aug_fn)
    return policy


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the upper bits of each pixel, none of them at timm's full strength: Pillow once gave black, 13 raises."""
    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def _without_change(operation: Callable, image: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
    """Return the image itself; the operation runs all the same, because it may draw random numbers."""
    operation(image, *args, **kwargs)
    return image


def _moved(name: str, image: Image.Image, amount: float, fillcolor: tuple[int, ...], **_: object) -> Image.Image:
    """Shear or translate an RGB image as the operation of this name does, along its rows or its columns."""
    width, height = image.size
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32).reshape(height, width)
    down = "Y" in name
    pixels = np.ascontiguousarray(pixels.T) if down else pixels
    rows, length = pixels.shape
    if name.startswith("Shear"):
        shifts = amount * (np.arange(rows) + 0.5)
    else:
        shifts = np.full(rows, amount * length if name.endswith("Rel") else amount)
    moved = shift_rows(pixels, shifts, np.frombuffer(bytes((*fillcolor, 255)), np.uint32)[0])
    moved = moved.T if down else moved
    return Image.frombytes("RGB", image.size, moved.tobytes(), "raw", "RGBX")


def shift_rows(pixels: np.ndarray, shifts: np.ndarray, fill: np.uint32) -> np.ndarray:
    """Shift each row to the left, with the cubic of Pillow's transform (a = -1), which takes four pixels.

    Args:
        pixels: (H, W) uint32, four bytes a pixel.
        shifts: (H,) in pixels.
        fill: pixel for what comes in from outside.
    """
    height, width = pixels.shape
    whole = np.floor(shifts)
    first, *others = torch.from_numpy(_cubic(shifts - whole).astype(np.float32)[..., None])
    at = whole.astype(np.int32)[:, None] + np.arange(-1, width + 2, dtype=np.int32)
    np.clip(at, 0, width - 1, out=at)
    at += np.arange(0, height * width, width, dtype=np.int32)[:, None]
    near = torch.from_numpy(pixels.take(at).view(np.uint8)).float()  # torch multiplies and adds in one pass
    mixed = near[:, : 4 * width] * first
    for tap, weight in enumerate(others, start=1):
        mixed.addcmul_(near[:, 4 * tap : 4 * (tap + width)], weight)
    moved = mixed.clamp_(0, 255).numpy().astype(np.uint8).view(np.uint32)
    columns = np.arange(width, dtype=np.int32)
    start, stop = (np.ceil(edge - 0.5 - shifts).astype(np.int32)[:, None] for edge in (0, width))
    np.copyto(moved, fill, where=(columns < start) | (columns >= stop))
    return moved


def _cubic(place: np.ndarray) -> np.ndarray:
    """Return the weights (4, H) of the pixels around places (H,) in [0, 1) between the second and the third."""
    square, cube = place**2, place**3
    return np.stack([2 * square - place - cube, 1 - 2 * square + cube, place + square - cube, cube - square])
