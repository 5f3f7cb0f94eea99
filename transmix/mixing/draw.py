"""A draw: how a batch is mixed, in plain numbers, so that it can be stored, compared and replayed."""

import math
import random
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from transmix.mixing.box import EMPTY, Box, SourceBox, box_area, check_box, check_source
from transmix.mixing.mixed import Mixed, check_batch, mix_pixels
from transmix.mixing.pixels import INTERPOLATIONS, as_sources, blend, boxes_mask, paste, per_row


class Shape(Protocol):
    """A region other than a box, drawn in plain numbers: a frozen dataclass, so that equal draws are equal."""

    def mask(self, height: int, width: int) -> Tensor:
        """Return (H, W) on the CPU: the partner's share of each pixel, bool or float32 in [0, 1]."""
        ...


class Row(NamedTuple):
    """How a method mixes one row, or each row of a batch alike.

    With neither box nor shape the whole image is blended by `lam`; at lam 1 the row stays as it is.

    Attributes:
        lam: weight of the row's own label.
        box: where the partner's pixels go.
        source_box: where in the partner they come from, resized to `box`; None: from the same place. Its bottom and
            right may be fractions of a pixel: ResizeMix samples by a scale that divides no side.
        shape: where they go, if that is no box.
        interpolation: how `source_box` is resized, one of `INTERPOLATIONS`.
    """

    lam: float
    box: Box | None = None
    source_box: SourceBox | None = None
    shape: Shape | None = None
    interpolation: str = "nearest"


@dataclass(frozen=True)
class Draw:
    """How one batch is mixed: plain numbers, so that any mix can be stored, compared and replayed.

    Attributes:
        height: H of the images it was drawn for.
        width: W.
        partner: for each of the B rows, the row whose image comes in.
        lam: weight of the row's own label, one for the batch or one per row.
        boxes: the box pasted from the partner, or None where the whole image is blended by `lam`;
            one for the batch or one per row, as `lam`. (lam 1 and None: the row stays as it is.)
        source_boxes: where in the partner each box comes from, None where from the same place; () if all do.
        shapes: the region that the partner takes where it is no box, else None; () if there is none.
        interpolation: how source boxes are resized, one of `INTERPOLATIONS`.
    """

    height: int
    width: int
    partner: tuple[int, ...]
    lam: tuple[float, ...]
    boxes: tuple[Box | None, ...]
    source_boxes: tuple[SourceBox | None, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    interpolation: str = "nearest"

    def apply(self, images: Tensor, labels: Tensor) -> Mixed:
        """Mix a batch as drawn. Pure: the same draw on the same batch gives the same result.

        Args:
            images: (B, C, H, W), float or uint8; not modified.
            labels: (B,) integer classes or (B, K) float.

        Raises:
            ValueError: the batch is not of the size that was drawn for, or a method drew what cannot be: a weight out
                of [0, 1], a box that leaves the image, a mask of another size or out of [0, 1].
        """
        labels = check_batch(images, labels)
        if (len(images), *images.shape[-2:]) != (len(self.partner), self.height, self.width):
            raise ValueError(
                f"this draw is for {len(self.partner)} images of {self.height} x {self.width}, "
                f"not {len(images)} of {images.shape[-2]} x {images.shape[-1]}"
            )
        self._check()
        partner = torch.tensor(self.partner).to(images.device, non_blocking=True)
        weights = [1.0 if row.box or row.shape else row.lam for row in self.rows]
        lam, blended = per_row(self.lam, images), per_row(weights, images) if min(weights) < 1 else None
        box, source_box, mask = self._boxes(images.device)
        if any(self.shapes):
            mask = self._with_shapes(mask, images.device)
        how = {"box": box, "source_box": source_box, "interpolation": self.interpolation}
        record = Mixed(images, labels, partner, lam, lam, mask, blend=blended, **how)
        if any(self.source_boxes) or any(self.shapes):
            pixels = mix_pixels(record, images)
        elif any(self.boxes) and (len(self.boxes) == 1 or images.device.type == "cpu"):
            whole = None if blended is None else blend(images, blended, partner)
            pixels = paste(images, [one or EMPTY for one in self.boxes], partner, onto=whole)
        elif len(self.lam) == 1 and mask is None:  # a number goes to the device with the kernel
            pixels = blend(images, weights[0], partner) if weights[0] < 1 else images.clone()
        else:
            pixels = mix_pixels(record, images)
        return replace(record, images=pixels)

    @property
    def rows(self) -> list[Row]:
        """One entry for the batch, or one per row."""
        nothing = (None,) * len(self.lam)
        columns = self.lam, self.boxes, self.source_boxes or nothing, self.shapes or nothing
        return [Row(*row, interpolation=self.interpolation) for row in zip(*columns, strict=True)]

    def _check(self) -> None:
        """Refuse numbers that pixels, mask and label would each understand differently."""
        for lam, box, source, shape, _ in self.rows:
            if not 0 <= lam <= 1:
                raise ValueError(f"lam is a weight in [0, 1], not {lam}")
            if box is not None and shape is not None:
                raise ValueError("a row has a box or another shape, not both")
            if box is not None:
                check_box(box, self.height, self.width)
            if source is not None:
                check_source(source, self.height, self.width)
            if source is not None and (box is None or (box_area(box) and not box_area(source))):
                raise ValueError(f"source box {source} is empty, or there is no box that it goes to")
        if self.interpolation not in INTERPOLATIONS:
            known = " or ".join(map(repr, INTERPOLATIONS))
            raise ValueError(f"interpolation is {known}, not {self.interpolation!r}")

    def _boxes(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return boxes, source boxes (B, 4) and the boxes' mask (1 or B, H, W) bool; None without any.

        Source boxes with fractions are float64, all else is int64.
        """
        if not any(self.boxes):
            return None, None, None
        whole, source_box = (len(self.partner), 4), None
        box = torch.tensor([row.box or EMPTY for row in self.rows]).to(device, non_blocking=True)
        if any(self.source_boxes):
            sources = [row.source_box or row.box or EMPTY for row in self.rows]
            source_box = as_sources(sources, device).expand(whole)
        return box.expand(whole), source_box, boxes_mask(box, self.height, self.width)

    def _with_shapes(self, mask: Tensor | None, device: torch.device) -> Tensor:
        """Return the masks of the rows that have a shape, and `mask` in the others: (1 or B, H, W)."""
        nothing = torch.zeros(self.height, self.width, dtype=torch.bool)
        drawn = [nothing if shape is None else self._mask_of(shape) for shape in self.shapes]
        soft = any(one.is_floating_point() for one in drawn)
        drawn_mask = torch.stack([one.float() if soft else one for one in drawn]).to(device, non_blocking=True)
        if mask is None:
            return drawn_mask
        return torch.maximum(mask.float(), drawn_mask) if soft else mask | drawn_mask

    def _mask_of(self, shape: Shape) -> Tensor:
        mask = shape.mask(self.height, self.width)
        fits = tuple(mask.shape) == (self.height, self.width)
        kind = mask.dtype == torch.bool or mask.is_floating_point()
        if not (fits and kind and bool((mask >= 0).all()) and bool((mask <= 1).all())):
            raise ValueError(
                f"a shape's mask is ({self.height}, {self.width}), bool or float in [0, 1], not {tuple(mask.shape)} "
                f"{mask.dtype}" + (f" from {float(mask.min()):g} to {float(mask.max()):g}" if mask.numel() else "")
            )
        return mask


def check_alpha(name: str, alpha: float) -> None:
    """Check the parameter of a method that draws from Beta.

    Raises:
        ValueError: alpha is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"{name} draws from Beta(alpha, alpha), alpha above 0, not {alpha}")


def draw_beta(rng: random.Random, alpha: float) -> float:
    """Draw from Beta(alpha, alpha); of an infinite alpha its limit, 0.5."""
    if math.isinf(alpha):
        return 0.5
    if alpha >= 0.05:
        return rng.betavariate(alpha, alpha)
    # Python divides Gamma draws, which both come out as 0 for a small alpha. Their logarithms do not:
    # Gamma(alpha) is distributed as Gamma(alpha + 1) * U^(1 / alpha).
    one, other = (math.log(rng.gammavariate(alpha + 1, 1)) + math.log(1 - rng.random()) / alpha for _ in range(2))
    return 1 / (1 + math.exp(min(other - one, 700.0)))
