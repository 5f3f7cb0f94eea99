"""A null rule: the objects' labels with each row's deviation from the area given to another row. It knows no image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transmix.labels.evidence import Evidence, weigh
from transmix.labels.object import object_labels
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class ControlLabels:
    """Move labels away from the area as far as the objects' labels do, in the wrong rows.

        lam = lam_area + (lam_object - lam_area) of another row

    The rows with a mask are ordered by area, and each takes the deviation of the next, the last that of the first; a
    single row keeps the area's label. Of labels by object this keeps how they spread at each area, and takes away what
    they know of the images. If training by `ObjectLabels` is better than by this, it is for what the masks say of each
    image.

    Needs the foreground, as `ObjectLabels`.
    """

    needs: ClassVar = ("foreground",)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by another row's objects."""
        foreground = evidence.foreground
        assert foreground is not None

        def of_another(mask: Tensor) -> Tensor:
            deviation = object_labels(mixed, foreground).lam - mixed.lam_area
            has_mask = mask.flatten(1).any(1).expand(len(deviation))
            # Rows without a mask come last, and the rolled order leaves them out.
            order = torch.argsort(torch.where(has_mask, mixed.lam_area, 2.0), stable=True)
            place, rows = torch.arange(len(order), device=order.device), has_mask.sum()
            given = deviation[order[(place + 1) % rows.clamp(min=1)]] * (rows > 1)  # alone, there is no other
            return mixed.lam_area + torch.zeros_like(deviation).scatter(0, order, given)

        return weigh(mixed, "control", 1.0, of_another)
