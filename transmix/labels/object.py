"""OA-CutMix's labels: weighed by how much of each object can be seen."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.labels.evidence import Evidence, own_part, weigh
from transmix.labels.patches import source_mask
from transmix.mixing.mixed import Mixed

BY = ("object", "pixels")


@dataclass(frozen=True)
class ObjectLabels:
    """OA-CutMix's rule: each label weighs what can be seen of its object, by masks of the objects.

    Args:
        by: "object": the fraction of each object's own pixels that is visible; "pixels": the number of its visible
            pixels; or the share of "pixels" in a mean of the two, in [0, 1].
        weight: share of the objects against area in the label.

    Raises:
        ValueError: a parameter out of its range.

    Source: OA-CutMix (arXiv 2606.04820, 2026).
    """

    by: str | float = "object"
    weight: float = 1.0

    needs: ClassVar = ("foreground",)

    def __post_init__(self) -> None:
        check_parameters(self.by, self.weight)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.foreground`."""
        assert evidence.foreground is not None
        return object_labels(mixed, evidence.foreground, by=self.by, weight=self.weight)


def object_labels(mixed: Mixed, foreground: Tensor, *, by: str | float = "object", weight: float = 1.0) -> Mixed:
    """Weigh each label by how much of its object can be seen: OA-CutMix's rule.

        lam_object = own / (own + theirs)
        lam        = weight * lam_object + (1 - weight) * lam_area

    own and theirs are what the mask leaves of the own object and shows of the partner's: by "object" (the paper's
    relative form) as fractions of that object's pixels in its own image, by "pixels" (its absolute form) as pixels of
    the mixed image. An image without an object has 0; where nothing of both is visible, the label is by area. Rows
    without a mask keep their label. `lam_object` stands in `lam_evidence`.

    Args:
        mixed: the batch, with a mask of any kind.
        foreground: (B, H, W) bool, or float in [0, 1], True where the object is, of each row's own image before mixing.
        by: "object", "pixels", or the share of "pixels" in a mean of the two, in [0, 1].
        weight: share of the objects against area.

    Raises:
        ValueError: a foreground of another shape, a parameter out of its range, or partners that are no rows of this
            batch.

    Source: OA-CutMix (arXiv 2606.04820, 2026). Differs from the authors' code where an object is missing: there,
    nothing visible gives 0.5 by pixels and the partner everything by object, and an image without an object counts as
    wholly visible by object.
    """
    check_parameters(by, weight)
    height, width = mixed.images.shape[-2:]
    if tuple(foreground.shape) != (len(mixed.images), height, width):
        raise ValueError(f"foreground must be ({len(mixed.images)}, {height}, {width}), not {tuple(foreground.shape)}")

    def lam_pixels(mask: Tensor) -> Tensor:
        own = _pixels(foreground, 1 - mask.float())
        return own_part(own, _pixels(mixed.pasted(foreground), mask), mixed.lam_area)

    def lam_object(mask: Tensor) -> Tensor:
        whole = _pixels(foreground, torch.ones_like(mask))
        own = _pixels(foreground, 1 - mask.float()) / whole.clamp(min=1e-12)
        theirs = _pixels(mixed.of_partner(foreground), source_mask(mixed)) / mixed.of_partner(whole).clamp(min=1e-12)
        return own_part(own, theirs, mixed.lam_area)

    def lam(mask: Tensor) -> Tensor:
        if isinstance(by, str):
            return lam_pixels(mask) if by == "pixels" else lam_object(mask)
        return by * lam_pixels(mask) + (1 - by) * lam_object(mask)

    return weigh(mixed, "object", weight, lam)


def _pixels(foreground: Tensor, mask: Tensor) -> Tensor:
    return (foreground.float() * mask.float()).flatten(1).sum(1)


def check_parameters(by: str | float, weight: float) -> None:
    """Check the parameters of the rule.

    Raises:
        ValueError: one is out of its range.
    """
    if by not in BY and (isinstance(by, str | bool) or not 0 <= by <= 1):
        raise ValueError(f"by must be one of {', '.join(BY)}, or the share of pixels in [0, 1], not {by!r}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of the objects in [0, 1], not {weight}")
