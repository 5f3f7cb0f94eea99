"""SnapMix: a box of the partner, resized into a box of another size."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from transmix.mixing.box import EMPTY, Box, box_area, draw_box
from transmix.mixing.boxes import as_boxes, mix_boxes
from transmix.mixing.draw import Row, check_alpha, draw_beta
from transmix.mixing.mixed import Mixed, check_batch

INTERPOLATION = "bilinear corners"


@dataclass(frozen=True)
class SnapMix:
    """Cut a box out of the partner and resize it to a box of the row, both drawn for themselves.

    Args:
        alpha: the area outside of each box is drawn from Beta(alpha, alpha), twice.

    Raises:
        ValueError: alpha is not above 0.

    Source: Huang et al., SnapMix (AAAI 2021).
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        check_alpha("SnapMix", self.alpha)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw two boxes for images of `height` x `width` pixels; if one is empty, the row is not mixed."""
        own, partners = (draw_box(rng, draw_beta(rng, self.alpha), height, width) for _ in range(2))
        if not (box_area(own) and box_area(partners)):
            return Row(1.0, EMPTY)
        return Row(1 - box_area(own) / (height * width), own, partners, interpolation=INTERPOLATION)


def snapmix(
    images: Tensor,
    labels: Tensor,
    own_box: Box | Sequence[Box] | Tensor,
    partner_box: Box | Sequence[Box] | Tensor,
    partner: Tensor | None = None,
) -> Mixed:
    """Resize a box of each row's partner to a box of the row: lam = 1 - own box / image area.

    Args:
        images: (B, C, H, W); of integers the nearest pixel is taken, floats are resized bilinearly, corner on corner.
        labels: (B,) integer classes or (B, K) float.
        own_box: (top, left, bottom, right) in pixels, half-open, where the partner's pixels go; for the whole batch, or
            one per row, (B, 4).
        partner_box: where in the partner they come from. A row with an empty box is not mixed.
        partner: (B,) int64; None pairs row i with row B - 1 - i (flipped batch).

    Raises:
        ValueError: shapes that do not fit, or a box that leaves the image.

    Source: Huang et al., SnapMix (AAAI 2021).
    """
    labels = check_batch(images, labels)
    own, partners = as_boxes(own_box, images), as_boxes(partner_box, images)
    count = max(len(own), len(partners))
    pairs = list(zip(own * (count // len(own)), partners * (count // len(partners)), strict=True))
    pairs = [pair if box_area(pair[0]) and box_area(pair[1]) else (EMPTY, EMPTY) for pair in pairs]
    boxes, sources = zip(*pairs, strict=True)
    return mix_boxes(images, labels, boxes, sources, partner, INTERPOLATION)
