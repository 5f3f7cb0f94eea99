"""Pixels: pasting, blending and moving, on tensors of any type and device. Pure: inputs are not modified."""

from collections.abc import Sequence

import torch
from torch import Tensor

from transmix.mixing.box import Box, SourceBox

INTERPOLATIONS = ("nearest", "bilinear", "bilinear corners")
"""How a source box is resized: as torch's interpolate of "nearest", "bilinear", "bilinear" with align_corners=True."""


def paste(images: Tensor, boxes: Sequence[Box], partner: Tensor, onto: Tensor | None = None) -> Tensor:
    """Return images (B, C, H, W) with a box of each row filled from the row's partner.

    No more is read and written than the boxes. But of one box per row each is a copy of its own: on a CPU faster than
    `on_mask`, on a GPU slower.

    Args:
        images: (B, C, H, W).
        boxes: one for all rows, or one per row.
        partner: (B,) int64.
        onto: (B, C, H, W), what they are pasted on, in place; None: a copy of the images.
    """
    pasted = images.clone() if onto is None else onto  # keeps channels_last
    if len(boxes) == 1:
        top, left, bottom, right = boxes[0]
        pasted[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
        return pasted
    for row, (other, (top, left, bottom, right)) in enumerate(zip(partner.tolist(), boxes, strict=True)):
        pasted[row, ..., top:bottom, left:right] = images[other, ..., top:bottom, left:right]
    return pasted


def on_mask(own: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Return `own` where the mask is 0, `theirs` where it is 1 and a blend between; rounded for integers.

    Args:
        own: (B, ..., H, W).
        theirs: the same of the partners.
        mask: (B or 1, H, W), bool or float in [0, 1].
    """
    share = mask.view(len(mask), *(1,) * (own.ndim - 3), *mask.shape[-2:])
    if not mask.is_floating_point():
        return torch.where(share, theirs, own)
    exact = own.dtype if own.dtype in (torch.float32, torch.float64) else torch.float32
    mixed = torch.lerp(own.to(exact), theirs.to(exact), share.to(exact))
    mixed = torch.where(share == 0, own.to(exact), torch.where(share == 1, theirs.to(exact), mixed))  # 0 * NaN is NaN
    return mixed.to(own.dtype) if own.is_floating_point() else mixed.round().to(own.dtype)


def blend(images: Tensor, lam: float | Tensor, partner: Tensor) -> Tensor:
    """Return lam * images + (1 - lam) * partners, in the images' type; lam a number or (B,)."""
    exact = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    if isinstance(lam, Tensor):
        lam = lam.to(exact).view(-1, *(1,) * (images.ndim - 1))
    blended = images[partner].to(exact).lerp_(images.to(exact), lam)  # in place: indexing has made a copy
    # A row that is not mixed takes nothing of its partner, not even a NaN.
    if isinstance(lam, Tensor) and (lam.device.type != "cpu" or torch.compiler.is_compiling() or (lam == 1).any()):
        blended = torch.where(lam == 1, images.to(exact), blended)
    return blended.round_().to(images.dtype) if not images.is_floating_point() else blended.to(images.dtype)


def move_box(tensor: Tensor, source: Tensor, box: Tensor, interpolation: str) -> Tensor:
    """Return each row with its `source` box resized into its `box`, 0 elsewhere; a row without a box unchanged.

    As `F.interpolate` of each source alone, for all rows at once and without waiting for the device.

    Args:
        tensor: (B, ..., H, W).
        source: (B, 4) int64 or float, (top, left, bottom, right) in pixels, half-open, not empty where the box is not.
            Fractions of a pixel in bottom and right change the scale, as `scale_factor` of `F.interpolate` does.
        box: (B, 4) int64, (top, left, bottom, right) in pixels, half-open.
        interpolation: one of `INTERPOLATIONS`; types without fractions take the nearest whatever it says.
    """
    height, width = tensor.shape[-2:]
    way = interpolation if tensor.is_floating_point() else "nearest"
    moved = tensor
    for axis, pixels in ((-2, height), (-1, width)):
        first, end, to_first, to_end = (side[:, 2 + axis + at] for side in (source, box) for at in (0, 2))
        places = _places(end - first, to_end - to_first, to_first, pixels, way)
        places = (first.float()[:, None] + places).clamp(max=pixels - 1)  # an empty one may lie outside
        moved = _resize_axis(moved, axis, places, way != "nearest")
    by_row = len(tensor), *(1,) * (tensor.ndim - 3)
    inside = boxes_mask(box, height, width)
    has_box = inside.flatten(1).any(1).view(*by_row, 1, 1)
    moved = torch.where(inside.view(*by_row, height, width), moved, torch.zeros_like(moved))
    moved = torch.where(has_box, moved, tensor)
    # gather loses channels_last
    return moved if moved.stride() == tensor.stride() else torch.empty_like(tensor).copy_(moved)


def _places(size: Tensor, to_size: Tensor, to_first: Tensor, pixels: int, way: str) -> Tensor:
    """Return (B, pixels) float32: where within the source each pixel along an axis comes from, as torch's interpolate.

    Args:
        size: (B,) pixels of the source along the axis.
        to_size: (B,) pixels of the box.
        to_first: (B,) the box's first pixel.
        pixels: of the whole image.
        way: one of `INTERPOLATIONS`.
    """
    within = (torch.arange(pixels, device=size.device)[None] - to_first[:, None]).float()
    # Fractions come as float64, so that the ratio of sizes is the very float32 number that torch's interpolate uses.
    size, to_size = (n if n.dtype == torch.float64 else n.float() for n in (size, to_size.to(size.dtype)))
    if way == "bilinear corners":
        place = within * ((size - 1) / (to_size - 1).clamp(min=1) * (to_size > 1)).float()[:, None]
    else:
        scale = (size / to_size.clamp(min=1)).float()[:, None]
        place = (within * scale).floor() if way == "nearest" else (within + 0.5) * scale - 0.5
    return torch.minimum(place.clamp(min=0), (size.ceil() - 1).clamp(min=0).float()[:, None])


def _resize_axis(tensor: Tensor, axis: int, places: Tensor, linear: bool) -> Tensor:
    """Return a tensor whose entries along `axis` are taken from `places` (B, n), between two where these are so."""
    shape = [len(tensor), *(1,) * (tensor.ndim - 1)]
    shape[axis] = places.shape[1]
    low = places.floor().long().view(shape)
    near = tensor.gather(axis, low.expand(tensor.shape))
    if not linear:
        return near
    exact = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    part = (places - places.floor()).view(shape).to(exact)
    far = tensor.gather(axis, (low + (part > 0)).expand(tensor.shape))
    return torch.lerp(near.to(exact), far.to(exact), part).to(tensor.dtype)


def boxes_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return (n, H, W) bool, True inside each of n boxes (n, 4)."""
    sides = boxes[:, :, None]
    rows, columns = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    in_rows = (rows >= sides[:, 0]) & (rows < sides[:, 2])
    in_columns = (columns >= sides[:, 1]) & (columns < sides[:, 3])
    return in_rows[:, :, None] & in_columns[:, None, :]


def as_sources(sources: Sequence[SourceBox], device: torch.device) -> Tensor:
    """Return source boxes as (n, 4) on the device: int64, or float64 (float32 where it has none) with fractions."""
    sides = torch.tensor(sources, dtype=torch.float64)
    if bool((sides == sides.long()).all()):
        sides = sides.long()
    elif device.type == "mps":
        sides = sides.float()
    return sides.to(device, non_blocking=True)


def per_row(values: Sequence[float], images: Tensor) -> Tensor:
    """Return one value, or one per row, as (B,) float32 on the images' device, without waiting for it."""
    rows = torch.tensor(values, dtype=torch.float32).to(images.device, non_blocking=True)
    return rows.expand(len(images)).contiguous()
