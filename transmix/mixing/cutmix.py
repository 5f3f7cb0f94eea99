"""CutMix: a box of the partner in the place where it was."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from transmix.mixing.box import Box, box_area, draw_box, draw_box_minmax
from transmix.mixing.boxes import as_boxes, mix_boxes
from transmix.mixing.draw import Row, check_alpha, draw_beta
from transmix.mixing.mixed import Mixed, check_batch


@dataclass(frozen=True)
class CutMix:
    """Paste a box of the partner; its label gets the box's share of the area.

    Args:
        alpha: the area left to the row is drawn from Beta(alpha, alpha).
        minmax: sides of the box as fractions of the image's, from and to, in place of Beta.
        correct_lam: take lam from the box that is left inside the image rather than from the Beta draw.

    Raises:
        ValueError: a parameter out of its range.

    Source: Yun et al., CutMix (ICCV 2019), section 3.1 and its algorithm A1; minmax and correct_lam are timm's.
    """

    alpha: float = 1.0
    minmax: tuple[float, float] | None = None
    correct_lam: bool = True

    def __post_init__(self) -> None:
        minmax = self.minmax
        if minmax is not None and not (len(minmax) == 2 and 0 <= minmax[0] <= minmax[1] <= 1):
            raise ValueError(f"cutmix_minmax must be two rising fractions in [0, 1], not {minmax}")
        if minmax is None:
            check_alpha("CutMix", self.alpha)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw a box for images of `height` x `width` pixels."""
        if self.minmax is not None:
            box = draw_box_minmax(rng, self.minmax, height, width)
        else:
            lam = draw_beta(rng, self.alpha)
            box = draw_box(rng, lam, height, width)
            if not self.correct_lam:
                return Row(lam, box)
        return Row(1 - box_area(box) / (height * width), box)


def cutmix(images: Tensor, labels: Tensor, box: Box | Sequence[Box] | Tensor, partner: Tensor | None = None) -> Mixed:
    """Paste a box of each row's partner into it; the label's weight is what the box leaves of the area.

        lam = 1 - box area / image area

    Args:
        images: (B, C, H, W), float or uint8.
        labels: (B,) integer classes or (B, K) float.
        box: (top, left, bottom, right) in pixels, half-open, for the whole batch; or one per row, (B, 4).
            An empty box leaves the row as it was.
        partner: (B,) int64, the row to paste from; None pairs row i with row B - 1 - i (flipped batch).

    Raises:
        ValueError: shapes that do not fit, or a box that leaves the image.

    Example:
        >>> mixed = cutmix(torch.zeros(2, 3, 8, 16), torch.tensor([0, 1]), box=(0, 0, 4, 8))
        >>> mixed.lam
        tensor([0.7500, 0.7500])

    Source: Yun et al., CutMix (ICCV 2019), equation 1.
    """
    labels = check_batch(images, labels)
    return mix_boxes(images, labels, as_boxes(box, images), partner=partner)
