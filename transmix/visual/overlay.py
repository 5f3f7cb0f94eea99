"""Images, attention and masks as the arrays that are drawn; all of it can be checked without looking at pixels."""

from typing import Any

import matplotlib
import numpy as np

COLOURS = "cividis"
"""Colour map of attention: even in lightness, and read alike by the colour-blind."""


def as_array(values: Any) -> np.ndarray:
    """Make a NumPy array of a tensor, on any device and of any type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def as_picture(image: Any) -> np.ndarray:
    """Make (H, W, 3) float in 0..1 of an image (3, H, W), uint8 or float.

    Raises:
        ValueError: If float pixels leave 0..1.
    """
    pixels = as_array(image)
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    elif not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
        raise ValueError(
            f"float images must lie in 0..1, got {pixels.min():.3g}..{pixels.max():.3g}: undo their normalisation"
        )
    return pixels.clip(0, 1).transpose(1, 2, 0)


def check_attention(attention: Any, batch: int, grid: tuple[int, int] | None) -> np.ndarray:
    """Give attention (B, P) as an array.

    Raises:
        ValueError: If it does not fit the batch and the grid, or is negative or not finite.
    """
    values = as_array(attention)
    if grid is None:
        raise ValueError("attention needs its grid (h, w)")
    if values.shape != (batch, grid[0] * grid[1]):
        raise ValueError(
            f"expected attention {(batch, grid[0] * grid[1])} for {batch} images and a grid of {tuple(grid)}, "
            f"got {values.shape}"
        )
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("attention must be finite and not negative")
    return values


def attention_map(attention: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Bring one sample's attention (P,) to its pixels (H, W) by nearest neighbour, divided by its maximum.

    Zero stays zero, so that even attention looks even and brightness is proportional to attention.
    """
    (h, w), (height, width) = grid, size
    patches = attention.reshape(h, w)
    pixels = patches[np.arange(height) * h // height][:, np.arange(width) * w // width]
    highest = pixels.max()
    return pixels / highest if highest > 0 else np.zeros_like(pixels)


def attention_overlay(picture: np.ndarray, attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Lay the colours of the attention (P,) over the greyed picture (H, W, 3): (H, W, 3) in 0..1."""
    grey = (picture @ [0.299, 0.587, 0.114])[..., None]
    colour = matplotlib.colormaps[COLOURS](attention_map(attention, grid, picture.shape[:2]))[..., :3]
    return 0.45 * grey + 0.55 * colour


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Give the smallest box (left, top, width, height) around a mask (H, W) in pixels, or None if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def mask_edges(mask: np.ndarray) -> np.ndarray:
    """Give the pixel sides between inside and outside of a mask (H, W) as lines: (S, 2, 2), points (x, y)."""
    padded = np.pad(mask, 1).astype(np.int8)
    y, x = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    across = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(np.diff(padded, axis=1)[1:-1])
    down = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return np.concatenate([across, down]) - 0.5  # a pixel's centre has whole coordinates
