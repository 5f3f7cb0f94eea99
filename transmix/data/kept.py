"""Images kept on the device: whether they fit, and bringing them there."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from transmix.data.bad_images import BadImages
from transmix.data.dataset import Split, UnreadableImageError
from transmix.error import RecipeError

PIECE = 1024
"""Images that go to the device at once."""


def kept_size(split: Split, crop: str, size: int) -> tuple[int, int]:
    """Return height and width at which training images are kept.

    Raises:
        RecipeError: crop 'random-resized' sees images at their own size, and their sizes differ.
    """
    if crop != "random-resized":
        return size, size
    if isinstance(split.images, np.ndarray):
        return split.images.shape[1], split.images.shape[2]
    found = (_size(split, index) for index in range(len(split)) if index not in split.bad)
    sizes = {one for one in found if one is not None}
    if len(sizes) > 1:
        (low_height, low_width), (high_height, high_width) = min(sizes), max(sizes)
        raise RecipeError(
            f"on_device with crop random-resized needs images of one size, but they go from {low_height} x {low_width} "
            f"to {high_height} x {high_width} pixels (height x width); take --crop pad, for which images are resized "
            f"to image_size {size} once, or leave --on-device out"
        )
    return sizes.pop() if sizes else (size, size)


def _size(split: Split, index: int) -> tuple[int, int] | None:
    if isinstance(split.images, list):
        return split.images[index].shape[:2]
    try:
        return split.images.size(index)  # type: ignore[attr-defined]
    except UnreadableImageError:
        return None


def check_memory(train: int, source: tuple[int, int], val: int, size: int, device: torch.device | str) -> None:
    """Check that images fit on the device.

    Args:
        train: number of training images.
        source: height and width at which they are kept.
        val: number of validation images.
        size: side at which those are kept.
        device: where to.

    Raises:
        RecipeError: they do not.
    """
    free = free_memory(torch.device(device))
    needed = 3 * (train * source[0] * source[1] + val * size * size)
    if free is not None and needed > free:
        raise RecipeError(
            f"on_device needs {needed / 1e6:,.1f} MB for {train} training images of {source[0]} x {source[1]} and "
            f"{val} validation images of {size} x {size} pixels, but {device} has {free / 1e6:,.1f} MB free; take a "
            f"smaller --image-size, or leave --on-device out"
        )


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free on a device; None if it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), None)
    except OSError:  # not on Linux
        return None


def keep(
    split: Split,
    indices: range,
    change: Callable[[np.ndarray], Tensor],
    size: tuple[int, int],
    device: torch.device | str,
    max_bad: int,
) -> tuple[Tensor, dict[int, UnreadableImageError]]:
    """Decode images and bring them to the device, (n, 3, H, W) uint8; name those that cannot be read, which are black.

    Args:
        split: the images.
        indices: which of them.
        change: (h, w, 3) uint8 array -> (3, H, W) uint8 tensor.
        size: H and W.
        device: where to.
        max_bad: how many may be unreadable.

    Raises:
        DataError: more cannot be read.
    """
    bad: dict[int, UnreadableImageError] = {}
    met = BadImages(max_bad)

    def image(index: int) -> Tensor:
        try:
            return change(split.image(index))
        except UnreadableImageError as error:
            met.add([(error.where, error.reason)])
            bad[index] = UnreadableImageError(error.where, error.reason)  # without the frames that hold the file
            return torch.zeros(3, *size, dtype=torch.uint8)

    images = torch.empty(len(indices), 3, *size, dtype=torch.uint8, device=device)
    for start in range(0, len(indices), PIECE):
        piece = indices[start : start + PIECE]
        images[start : start + len(piece)] = torch.stack([image(index) for index in piece]).to(device)
    return images, bad
