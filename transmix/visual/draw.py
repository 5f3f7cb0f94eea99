"""Putting a picture into axes: crisp or smooth as its size asks, framed, with a mask's border."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from transmix.visual.overlay import box_of, mask_edges


def draw_picture(axes: Axes, picture: np.ndarray, frame: str | None = None) -> None:
    """Draw a picture (H, W, 3) in 0..1, or (H, W) from black to white, with a frame of some colour."""
    height, width = picture.shape[:2]
    # the pixels of a small image should be seen as they are; a large one is scaled down, which needs a filter
    smooth = "nearest" if max(height, width) <= 64 or picture.ndim == 2 else "hanning"
    axes.imshow(picture, interpolation=smooth, cmap="gray", vmin=0, vmax=1)
    if frame is not None:
        place = (-0.5, -0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=frame, linewidth=2, clip_on=False))


def draw_outline(axes: Axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (H, W), white within black, which is seen on every image."""
    box = box_of(mask)
    if box is None:
        return
    style: dict[str, Any] = {"linewidth": 1.2, "clip_on": False}
    style["path_effects"] = [withStroke(linewidth=2.6, foreground="black")]
    left, top, width, height = box
    if mask.sum() == width * height:
        place = (left - 0.5, top - 0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor="white", **style))
    else:
        axes.add_collection(LineCollection(mask_edges(mask).tolist(), colors="white", **style), autolim=False)
