"""Whose row is it? Find out whether a model saw a batch: by comparing memory if possible, else pixels."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE = 0.97
"""Least correlation of pixels between a batch and the same batch normalised or cast on the way."""

RESIZED = 0.9
"""Least correlation between a batch and the same batch resized on the way, by an unknown filter."""

FITS = ("same", "padded", "resized", "flat")
"""Answers of `compare` under which the patches of both lie alike."""


def same_view(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are the same memory in the same layout; while compiling, the same tensor."""
    if one is None or other is None:
        return False
    if one is other:
        return True
    # Not `one is other` alone: a forward hook, DDP or a view (images[:]) hands over another object on the same memory.
    # Dynamo has no data pointers, so compiled code knows tensors by identity alone.
    return bool(
        not torch.compiler.is_compiling()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
        and shares_memory(one, other)
        and one.storage_offset() == other.storage_offset()
    )


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are views of one storage."""
    if one.device != other.device or "meta" in (one.device.type, other.device.type):
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0


def compare(images: Tensor, seen: Tensor) -> str:
    """Return how a batch was changed on its way into a model. Waits for the device.

    Args:
        images: (B, C, H, W) of the batch.
        seen: (B, C', H', W') that the model, or what cuts its patches, was given.

    Returns:
        "same" (only the values changed: normalised, cast), "padded" at the right and bottom, "resized", "flat" (images
        of one colour, which cannot be compared); else the reason why the patches of `seen` are not
        aligned with those of `images`.
    """
    if seen.ndim != 4:
        return f"has the shape {tuple(seen.shape)}, not (B, C, H, W)"
    if len(images) > 16:  # 16 images are enough to tell, and keep the one comparison cheap
        chosen = torch.linspace(0, len(images) - 1, 16, device=images.device).long()
        images, seen = images[chosen], seen[chosen.to(seen.device)]
    with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
        batch, other = _grey(images.to(seen.device)), _grey(seen)
        (height, width), (seen_height, seen_width) = batch.shape[1:], other.shape[1:]
        if (height, width) == (seen_height, seen_width):
            if correlation(batch, other) >= ALIKE:
                return "same"
            if math.isnan(correlation(batch, batch)) and math.isnan(correlation(other, other)):
                return "flat"
        else:
            inside, corner = best_window(other, batch) if seen_height >= height else best_window(batch, other)
            if inside >= ALIKE and corner == (0, 0) and seen_height >= height and seen_width >= width:
                return "padded"
            resized = correlation(_resize(batch, other), other)
            # A narrow border cut off or put around looks much like a resized image, but more like a part of one.
            if resized >= RESIZED and resized > inside:
                return "resized"
        changed = {
            "transposed": batch.transpose(1, 2),
            "flipped left to right": batch.flip(2),
            "flipped upside down": batch.flip(1),
            "rotated": batch.rot90(1, (1, 2)),
            "rotated the other way": batch.rot90(-1, (1, 2)),
            "in another order": batch.flip(0),
        }
        for word, one in changed.items():
            if correlation(_resize(one, other), other) >= RESIZED:
                return f"is {word}"
    how = "shifted, changed a lot" if (height, width) == (seen_height, seen_width) else "cropped, shifted"
    return f"is {how} or another batch ({seen_height} x {seen_width} pixels where the batch has {height} x {width})"


def best_window(large: Tensor, small: Tensor) -> tuple[float, tuple[int, int]]:
    """Find the part of large (B, H, W) that is most similar to small (B, h, w); return its similarity and (top, left).

    Tries at most 9 x 9 positions, including the corners. (-1, (0, 0)) where small does not fit in.
    """
    height, width = small.shape[1:]
    room = large.shape[1] - height, large.shape[2] - width
    if min(room) < 0:
        return -1.0, (0, 0)
    tops, lefts = (sorted({round(step * free / 8) for step in range(9)}) for free in room)
    found = {(y, x): correlation(large[:, y : y + height, x : x + width], small) for y in tops for x in lefts}
    place = max(found, key=lambda place: -1.0 if math.isnan(found[place]) else found[place])
    return found[place], place


def correlation(one: Tensor, other: Tensor) -> float:
    """Return the mean correlation over pixels of (B, H, W) pairs; nan if all are of one colour."""
    one, other = (values.flatten(1) - values.flatten(1).mean(1, keepdim=True) for values in (one, other))
    spread = (one.square().sum(1) * other.square().sum(1)).sqrt()
    told = spread > 1e-8 * one.shape[1]
    if not told.any():
        return float("nan")
    return float(((one * other).sum(1)[told] / spread[told]).mean())


def _grey(images: Tensor) -> Tensor:
    return images.float().mean(1).nan_to_num()


def _resize(images: Tensor, like: Tensor) -> Tensor:
    if images.shape[1:] == like.shape[1:]:
        return images
    return F.interpolate(images[:, None], size=like.shape[1:], mode="bilinear", antialias=True)[:, 0]
