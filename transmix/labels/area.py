"""CutMix's labels: the partner's share is what its pixels have of the area."""

from dataclasses import dataclass, replace
from typing import ClassVar

from transmix.labels.evidence import Evidence
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class AreaLabels:
    """The label that mixing gave: by area for boxes and masks, by the blend for Mixup.

    Source: Yun et al., CutMix (ICCV 2019), equation 1.
    """

    needs: ClassVar = ()

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by area."""
        return replace(mixed, lam=mixed.lam_area, lam_partner=None, lam_evidence=None, rule="area")
