"""Mixup: the whole image blended with its partner."""

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.mixing.draw import Row, check_alpha, draw_beta
from transmix.mixing.mixed import Mixed, check_batch, check_partner
from transmix.mixing.pixels import blend


@dataclass(frozen=True)
class Mixup:
    """Blend each image with its partner; labels alike.

    Args:
        alpha: the weight of the row's own image is drawn from Beta(alpha, alpha).

    Raises:
        ValueError: alpha is not above 0.

    Source: Zhang et al., mixup (ICLR 2018), equation 1.
    """

    alpha: float = 0.8

    has_mask: ClassVar = False

    def __post_init__(self) -> None:
        check_alpha("Mixup", self.alpha)

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw the weight of the own image."""
        return Row(draw_beta(rng, self.alpha))


def mixup(images: Tensor, labels: Tensor, lam: float | Tensor, partner: Tensor | None = None) -> Mixed:
    """Blend each row with its partner: lam * own + (1 - lam) * partner's, images and labels alike.

    Args:
        images: (B, C, H, W), float or uint8 (rounded).
        labels: (B,) integer classes or (B, K) float.
        lam: weight of the row's own image in [0, 1], for the whole batch or (B,).
        partner: (B,) int64; None pairs row i with row B - 1 - i (flipped batch).

    Raises:
        ValueError: shapes that do not fit, or lam out of [0, 1].

    Source: Zhang et al., mixup (ICLR 2018), equation 1.
    """
    labels = check_batch(images, labels)
    partner = check_partner(images, partner)
    weights = torch.as_tensor(lam, dtype=torch.float32, device="cpu")
    if weights.ndim and weights.shape != (len(images),):
        raise ValueError(f"lam is one number or one per row ({len(images)},), not {tuple(weights.shape)}")
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"lam must lie in [0, 1], not {lam}")
    weights = weights.to(images.device).expand(len(images)).contiguous()
    if isinstance(lam, int | float):  # at 1 nothing of the partner comes in, not even a NaN
        blended = images.clone() if lam == 1 else blend(images, float(lam), partner)
    else:
        blended = blend(images, weights, partner)
    return Mixed(blended, labels, partner, weights, weights, blend=weights)
