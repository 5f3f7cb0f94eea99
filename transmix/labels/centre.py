"""A null rule: attention that is always a Gaussian at the image's centre. It looks at no image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.labels.evidence import Evidence, weigh
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class CentreLabels:
    """Weigh the partner's pixels by a fixed prior: photographers put the object in the middle.

        lam_centre = sum(G * (1 - M)) / sum(G)        G = exp(-(x^2 / W^2 + y^2 / H^2) / (2 sigma^2)) from the centre
        lam        = weight * lam_centre + (1 - weight) * lam_area

    M is the mask, pixel by pixel. Rows without a mask keep their label.

    Args:
        weight: share of the prior against area in the label.
        sigma: standard deviation of the Gaussian as a fraction of the image's sides.

    Raises:
        ValueError: a parameter out of its range.
    """

    weight: float = 1.0
    sigma: float = 0.28

    needs: ClassVar = ()

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is the share of the prior in [0, 1], not {self.weight}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, not {self.sigma}")

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by the prior."""

        def lam_centre(mask: Tensor) -> Tensor:
            prior = centre_prior(mask.shape[-2], mask.shape[-1], self.sigma, mask.device)
            return (1 - (prior * mask.float()).flatten(1).sum(1)).clamp(0, 1)

        return weigh(mixed, "centre", self.weight, lam_centre)


def centre_prior(height: int, width: int, sigma: float, device: torch.device) -> Tensor:
    """Return (height, width) float32 that sums to 1, a Gaussian at the centre; sigma as a fraction of each side."""
    down, across = (((torch.arange(side, device=device) + 0.5) / side - 0.5) ** 2 for side in (height, width))
    prior = torch.exp(-(down[:, None] + across[None]) / (2 * sigma**2))
    return prior / prior.sum()
