"""A null rule: a straight line in the area. It looks at nothing; a rule that looks must beat it."""

from dataclasses import dataclass
from typing import ClassVar

from transmix.labels.evidence import Evidence, weigh
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class LineLabels:
    """Pull the label towards one half, the same way for every image.

        lam = 1/2 + slope * (lam_area - 1/2)

    Args:
        slope: 1 is the area's label, 0 half and half.

    Raises:
        ValueError: a slope out of [0, 1].
    """

    slope: float = 0.75

    needs: ClassVar = ()

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope must lie in [0, 1], not {self.slope}")

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by the line."""
        return weigh(mixed, "line", 1.0, lambda mask: 0.5 + self.slope * (mixed.lam_area - 0.5))
