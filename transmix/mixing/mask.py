"""Paste by a mask of any shape: pixels or cells of a grid, hard or soft."""

from dataclasses import replace

import torch
from torch import Tensor

from transmix.mixing.mixed import Mixed, check_batch, check_partner, mix_pixels


def paste_mask(images: Tensor, labels: Tensor, mask: Tensor, partner: Tensor | None = None) -> Mixed:
    """Take each row's partner where the mask says so; the label's weight is the area that is left.

        lam = 1 - mean of the mask's pixels

    Args:
        images: (B, C, H, W), float or uint8 (rounded where the mask is soft).
        labels: (B,) integer classes or (B, K) float.
        mask: the partner's share: bool, or float in [0, 1]. (H, W) for the whole batch or (B, H, W); or cells of a grid
            that divides the image, (h, w) or (B, h, w).
        partner: (B,) int64, the row to paste from; None pairs row i with row B - 1 - i (flipped batch).

    Raises:
        ValueError: shapes that do not fit, a mask of integers; on the CPU, a mask out of [0, 1].

    Example:
        >>> mixed = paste_mask(torch.zeros(2, 3, 8, 16), torch.tensor([0, 1]), torch.tensor([[True, False]]))
        >>> mixed.lam
        tensor([0.5000, 0.5000])
    """
    labels = check_batch(images, labels)
    partner = check_partner(images, partner)
    mask = _on_pixels(mask.to(images.device), images)
    with torch.autocast(images.device.type, enabled=False):
        share = mask.float().mean((1, 2))
        lam = (1 - share).clamp(0, 1).expand(len(images)).contiguous()  # rounding may step outside
        record = Mixed(images, labels, partner, lam, lam, mask)
        return replace(record, images=mix_pixels(record, images))


def _on_pixels(mask: Tensor, images: Tensor) -> Tensor:
    """Return (B or 1, H, W), bool or float32."""
    height, width = images.shape[-2:]
    one = mask[None] if mask.ndim == 2 else mask
    h, w = one.shape[-2:] if one.ndim == 3 else (0, 0)
    if not (one.ndim == 3 and len(one) in (1, len(images)) and h and w and height % h == 0 and width % w == 0):
        raise ValueError(
            f"a mask is ({height}, {width}) or ({len(images)}, {height}, {width}), or a grid that divides these sides, "
            f"not {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"a mask is bool, or float in [0, 1], not {mask.dtype}")
    if mask.is_floating_point() and mask.device.type == "cpu" and not bool(((one >= 0) & (one <= 1)).all()):
        raise ValueError(f"a mask is bool, or float in [0, 1], not from {float(one.min()):g} to {float(one.max()):g}")
    one = one.float() if one.is_floating_point() else one
    return one.repeat_interleave(height // h, 1).repeat_interleave(width // w, 2)
