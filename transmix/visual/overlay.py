"""Convert images, attention and masks to arrays, and draw them into axes."""

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from transmix.visual.palette import OUTLINE

Grid = tuple[int, int]
"""Rows and columns (h, w) of patches."""

COLOURS = "cividis"
"""Colour map of attention: even in lightness, and read alike by the colour-blind."""

SCALE_ENDS = (2.0, 10.0)
"""Multiples of an even share between which the scale of a figure ends."""

FLAT = 1.2
"""Multiple of its even share that no patch exceeds where attention is called flat."""


def as_array(values: Any) -> np.ndarray:
    """Convert a tensor on any device and of any dtype to a NumPy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def as_picture(image: Any) -> np.ndarray:
    """Convert an image (3, H, W), uint8 or float, to (H, W, 3) float in 0..1.

    Raises:
        ValueError: Float pixels are outside 0..1.
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
    """Return attention (B, P) as an array.

    Raises:
        ValueError: It does not fit the batch and the grid, or is negative or not finite.
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


def multiples(attention: np.ndarray) -> np.ndarray:
    """Return attention (P,) divided by its mean: 1 everywhere for uniform attention."""
    mean = attention.mean()
    return attention / mean if mean > 0 else np.zeros_like(attention)


def scale_end(rows: Iterable[np.ndarray]) -> float:
    """Return the upper end of a figure's colour scale, in multiples of uniform attention.

    It is the maximum, but at least 2, so that flat attention looks flat, and at most 10, so that one patch does not
    make the others dark.
    """
    return float(np.clip(max(multiples(row).max() for row in rows), *SCALE_ENDS))


def attention_notes(rows: Iterable[np.ndarray]) -> tuple[str, ...]:
    """Return notes on the colours, and on flat attention."""
    note = "colours: attention in multiples of an even share (1: every patch alike)"
    highest = max(multiples(row).max() for row in rows)
    if highest <= FLAT:
        return note, f"attention is flat: no patch has more than {FLAT:g} times its even share"
    return (note, f"the highest: {highest:.0f}") if highest > SCALE_ENDS[1] else (note,)


def attention_map(attention: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Upsample one sample's attention (P,), in multiples of uniform attention, to (H, W) by nearest neighbour."""
    (h, w), (height, width) = grid, size
    patches = multiples(attention).reshape(h, w)
    return patches[np.arange(height) * h // height][:, np.arange(width) * w // width]


def attention_overlay(picture: np.ndarray, attention: np.ndarray, grid: tuple[int, int], end: float) -> np.ndarray:
    """Overlay the colours of attention (P,) on the grey picture (H, W, 3): (H, W, 3) in 0..1. See `scale_end`."""
    return tinted(picture, attention_map(attention, grid, picture.shape[:2]) / end)


def tinted(picture: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Overlay the colours of values (H, W) in 0..1 of the scale on the grey picture (H, W, 3)."""
    grey = (picture @ [0.299, 0.587, 0.114])[..., None]
    return 0.45 * grey + 0.55 * matplotlib.colormaps[COLOURS](shares.clip(0, 1))[..., :3]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the smallest box (left, top, width, height) around a mask (H, W) in pixels, or None if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def mask_edges(mask: np.ndarray) -> np.ndarray:
    """Return the pixel edges between inside and outside of a mask (H, W) as lines: (S, 2, 2), points (x, y)."""
    padded = np.pad(mask, 1).astype(np.int8)
    y, x = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    across = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(np.diff(padded, axis=1)[1:-1])
    down = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return np.concatenate([across, down]) - 0.5  # a pixel's centre has whole coordinates


def draw_picture(axes: Axes, picture: np.ndarray, frame: str | None = None, as_it_is: bool = False) -> None:
    """Draw a picture (H, W, 3) in 0..1, or (H, W) from black to white, with a frame of some colour.

    `as_it_is`: embed the original pixels; the viewer of an SVG scales them.
    """
    height, width = picture.shape[:2]
    # the pixels of a small image should be seen as they are; a large one is scaled down, which needs a filter
    smooth = "nearest" if max(height, width) <= 64 or picture.ndim == 2 else "hanning"
    axes.imshow(picture, interpolation="none" if as_it_is else smooth, cmap="gray", vmin=0, vmax=1)
    if frame is not None:
        place = (-0.5, -0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=frame, linewidth=2, clip_on=False))


def draw_outline(axes: Axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (H, W), white with a black edge, visible on every image."""
    if (box := box_of(mask)) is None:
        return
    border = withStroke(linewidth=2.6, foreground="black")
    style: dict[str, Any] = {"linewidth": 1.2, "clip_on": False, "path_effects": [border]}
    left, top, width, height = box
    if mask.sum() == width * height:
        place = (left - 0.5, top - 0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=OUTLINE, **style))
    else:
        axes.add_collection(LineCollection(mask_edges(mask).tolist(), colors=OUTLINE, **style), autolim=False)
