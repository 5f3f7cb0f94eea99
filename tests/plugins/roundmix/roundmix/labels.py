"""The label is what the upper left quarter of the image shows."""

from dataclasses import dataclass, replace
from typing import ClassVar

from transmix.labels import Evidence
from transmix.mixing import Mixed


@dataclass(frozen=True)
class CornerLabels:
    weight: float = 1.0

    needs: ClassVar = ()

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        if mixed.mask is None:
            return replace(mixed, lam=mixed.lam_area)
        height, width = mixed.mask.shape[-2:]
        corner = 1 - mixed.mask[:, : height // 2, : width // 2].float().mean((1, 2))
        lam = self.weight * corner + (1 - self.weight) * mixed.lam_area
        lam = lam.where(mixed.mask.flatten(1).any(1), mixed.lam_area)
        return replace(mixed, lam=lam, lam_evidence=corner.expand_as(lam))
