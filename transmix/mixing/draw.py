"""A draw: how a batch is mixed, in plain numbers, so that it can be stored, compared and replayed."""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from transmix.mixing.box import Box, box_area, check_box
from transmix.mixing.mixed import Mixed, check_batch
from transmix.mixing.pixels import blend, boxes_mask, move_box, on_mask, paste, per_row


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
        source_box: where in the partner they come from, resized to `box`; None: from the same place.
        shape: where they go, if that is no box.
        interpolation: how `source_box` is resized, "nearest" or "bilinear".
    """

    lam: float
    box: Box | None = None
    source_box: Box | None = None
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
        interpolation: how source boxes are resized, "nearest" or "bilinear".
    """

    height: int
    width: int
    partner: tuple[int, ...]
    lam: tuple[float, ...]
    boxes: tuple[Box | None, ...]
    source_boxes: tuple[Box | None, ...] = ()
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
        lam = per_row(self.lam, images)
        shapes = self.shapes or (None,) * len(self.lam)
        mixed, mask, box, source_box, blended = images, None, None, None, None
        blends = [1.0 if b or shape else weight for weight, b, shape in zip(self.lam, self.boxes, shapes, strict=True)]
        if any(weight < 1 for weight in blends):
            blended = per_row(blends, images)
            mixed = blend(images, blends[0] if len(blends) == 1 else blended, partner)
        if any(self.boxes):
            boxes = [b or (0, 0, 0, 0) for b in self.boxes]
            sides = torch.tensor(boxes).to(images.device, non_blocking=True)
            mask, box = boxes_mask(sides, self.height, self.width), sides.expand(len(images), 4)
            if not any(self.source_boxes) and not any(shapes):
                mixed = paste(mixed, images, boxes, mask, partner)
        if any(self.source_boxes) or any(shapes):
            theirs, source_box = self._theirs(images[partner], box)
            mask = self._with_shapes(mask, shapes, images.device)
            mixed = on_mask(mixed, theirs, mask)
        moved = {"box": box, "source_box": source_box, "interpolation": self.interpolation}
        mixed = images.clone() if mixed is images else mixed
        return Mixed(mixed, labels, partner, lam, lam, mask, blend=blended, **moved)

    def _check(self) -> None:
        """Refuse numbers that pixels, mask and label would each take in another way."""
        nothing = (None,) * len(self.lam)
        rows = zip(self.lam, self.boxes, self.source_boxes or nothing, self.shapes or nothing, strict=True)
        for lam, box, source, shape in rows:
            if not 0 <= lam <= 1:
                raise ValueError(f"lam is a weight in [0, 1], not {lam}")
            if box is not None and shape is not None:
                raise ValueError("a row has a box or another shape, not both")
            if box is not None:
                check_box(box, self.height, self.width)
            if source is not None:
                check_box(source, self.height, self.width)
                if box is None or (box_area(box) and not box_area(source)):
                    raise ValueError(f"source box {source} is empty, or there is no box that it goes to")
        if self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"interpolation is 'nearest' or 'bilinear', not {self.interpolation!r}")

    def _theirs(self, partners: Tensor, box: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the partners' pixels where they go, and where they come from (B, 4) if that is elsewhere."""
        if box is None or not any(self.source_boxes):
            return partners, None
        sources = [source or box or (0, 0, 0, 0) for source, box in zip(self.source_boxes, self.boxes, strict=True)]
        source_box = torch.tensor(sources).to(partners.device, non_blocking=True).expand(len(partners), 4)
        return move_box(partners, source_box, box, self.interpolation), source_box

    def _with_shapes(self, mask: Tensor | None, shapes: tuple[Shape | None, ...], device: torch.device) -> Tensor:
        """Return the masks of the rows that have a shape, and `mask` in the others: (1 or B, H, W)."""
        if not any(shapes):
            assert mask is not None
            return mask
        nothing = torch.zeros(self.height, self.width, dtype=torch.bool)
        drawn = [nothing if shape is None else self._checked(shape.mask(self.height, self.width)) for shape in shapes]
        soft = any(one.is_floating_point() for one in drawn)
        drawn_mask = torch.stack([one.float() if soft else one for one in drawn]).to(device, non_blocking=True)
        if mask is None:
            return drawn_mask
        return torch.maximum(mask.float(), drawn_mask) if soft else mask | drawn_mask

    def _checked(self, mask: Tensor) -> Tensor:
        fits = tuple(mask.shape) == (self.height, self.width)
        kind = mask.dtype == torch.bool or mask.is_floating_point()
        if not (fits and kind and bool((mask >= 0).all()) and bool((mask <= 1).all())):
            raise ValueError(
                f"a shape's mask is ({self.height}, {self.width}), bool or float in [0, 1], not {tuple(mask.shape)} "
                f"{mask.dtype}" + (f" from {float(mask.min()):g} to {float(mask.max()):g}" if mask.numel() else "")
            )
        return mask


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
