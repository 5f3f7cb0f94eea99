"""ResizeMix: the whole partner, made small, in a box."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.mixing.box import EMPTY, Box, SourceBox, box_area
from transmix.mixing.boxes import as_boxes, mix_boxes
from transmix.mixing.draw import Row
from transmix.mixing.mixed import Mixed, check_batch


@dataclass(frozen=True)
class ResizeMix:
    """Paste the whole partner, resized to a box: the box never shows background alone.

    In mode "batch" all rows have boxes of one size, each row in another place.

    Args:
        low: smallest side of the box, as a fraction of the image's side.
        high: largest side.
        interpolation: "nearest" as the authors' code, or "bilinear" (integer images: nearest).

    Raises:
        ValueError: a parameter out of its range.

    Source: Qin et al., ResizeMix (arXiv 2012.11101); scale ~ U(0.1, 0.8).
    """

    low: float = 0.1
    high: float = 0.8
    interpolation: str = "nearest"

    per_sample: ClassVar = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low and high must be two rising fractions in [0, 1], not {self.low} and {self.high}")
        _check_interpolation(self.interpolation)

    def draw_shared(self, rng: random.Random) -> float:
        """Draw the scale, the box's side as a fraction of the image's: the same for every row of a batch."""
        return rng.uniform(self.low, self.high)

    def draw_with(self, shared: float, rng: random.Random, height: int, width: int) -> Row:
        """Draw where a row's box of this scale is: its centre is uniform, then it is moved into the image."""
        h, w = int(height * shared), int(width * shared)
        top = min(max(rng.randrange(height) - h // 2, 0), height - h)
        left = min(max(rng.randrange(width) - w // 2, 0), width - w)
        if not h * w:
            return Row(1.0, EMPTY)
        box = top, left, top + h, left + w
        scale = shared if self.interpolation == "nearest" else None
        source = _source(box, height, width, self.interpolation, scale)
        return Row(1 - box_area(box) / (height * width), box, source, interpolation=self.interpolation)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw a scale and a place for images of `height` x `width` pixels."""
        return self.draw_with(self.draw_shared(rng), rng, height, width)


def resizemix(
    images: Tensor,
    labels: Tensor,
    box: Box | Sequence[Box] | Tensor,
    partner: Tensor | None = None,
    interpolation: str = "nearest",
    *,
    scale: float | None = None,
) -> Mixed:
    """Paste each row's whole partner, resized to a box: lam = 1 - box area / image area.

    Args:
        images: (B, C, H, W), float or uint8.
        labels: (B,) integer classes or (B, K) float.
        box: (top, left, bottom, right) in pixels, half-open, for the whole batch; or one per row, (B, 4).
        partner: (B,) int64, the row to paste; None pairs row i with row B - 1 - i (flipped batch).
        interpolation: "nearest": pixel i of the box is pixel floor(i / scale) of the partner. "bilinear": by the ratio
            of the sizes, pixels are squares.
        scale: side of the box as a fraction of the image's, before it was rounded down to whole pixels; "nearest" alone
            uses it. None: max(h / H, w / W), the least scale that makes this box. The authors' draw is larger in most
            cases, and then samples other pixels (in three of our six reference cases; lam and mask are the same): give
            the scale where pixels must agree.

    Raises:
        ValueError: shapes that do not fit, a box that leaves the image, a scale that is too small for the box.

    Source: Qin et al., ResizeMix (arXiv 2012.11101); "bilinear" is that of mmpretrain.
    """
    labels = check_batch(images, labels)
    boxes = as_boxes(box, images)
    _check_interpolation(interpolation)
    if scale is not None and interpolation != "nearest":
        raise ValueError("scale belongs to interpolation 'nearest'; bilinear resizes by the ratio of the sizes")
    height, width = images.shape[-2:]
    sources = [_source(one, height, width, interpolation, scale) for one in boxes]
    return mix_boxes(images, labels, boxes, sources, partner, interpolation)


def _source(box: Box, height: int, width: int, interpolation: str, scale: float | None) -> SourceBox:
    """Return what is sampled of the partner: all, or the part that a whole number of pixels at `scale` covers."""
    h, w = box[2] - box[0], box[3] - box[1]
    least = max(h / height, w / width)
    if interpolation != "nearest" or not h * w:
        return 0, 0, height, width
    scale = least if scale is None else scale
    if not (scale <= 1 and least <= scale * (1 + 1e-9)):
        raise ValueError(f"scale must lie in [{least:g}, 1] for a box of {h} x {w} in {height} x {width}, not {scale}")
    step = float(torch.tensor(1 / scale, dtype=torch.float32))  # torch's interpolate holds it so, and so do the authors
    return 0, 0, min(h * step, height), min(w * step, width)


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation of ResizeMix is 'nearest' or 'bilinear', not {interpolation!r}")
