"""Boxes of a whole batch: read from what the caller gives, and pasted with the record that goes with them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from transmix.mixing.box import Box, SourceBox, box_area, check_box
from transmix.mixing.mixed import Mixed, check_partner, mix_pixels
from transmix.mixing.pixels import as_sources, boxes_mask, paste, per_row


def as_boxes(box: Box | Sequence[Box] | Tensor, images: Tensor) -> list[Box]:
    """Return one box for the batch, or one per row, in whole pixels of `images` (B, C, H, W).

    Raises:
        ValueError: neither one box nor B, or a box that leaves the image.
    """
    rows = box.tolist() if isinstance(box, Tensor) else box
    rows = [rows] if isinstance(rows[0], int | float) else list(rows)  # type: ignore[index]
    if len(rows) not in (1, len(images)):
        raise ValueError(f"one box for the batch or one per row ({len(images)}), not {len(rows)}")
    return [check_box(tuple(row), *images.shape[-2:]) for row in rows]  # type: ignore[arg-type]


def mix_boxes(
    images: Tensor,
    labels: Tensor,
    boxes: Sequence[Box],
    sources: Sequence[SourceBox] | None = None,
    partner: Tensor | None = None,
    interpolation: str = "nearest",
) -> Mixed:
    """Paste boxes of each row's partner: lam = 1 - box area / image area.

    Args:
        images: (B, C, H, W).
        labels: (B,) int64 or (B, K) float, checked.
        boxes: where the partner's pixels go, one for the batch or one per row.
        sources: where in the partner they come from, as many; None: from the same place.
        partner: (B,) int64; None: the flipped batch.
        interpolation: how a source is resized to its box.
    """
    partner = check_partner(images, partner)
    height, width = images.shape[-2:]
    sides = torch.tensor(boxes).to(images.device, non_blocking=True)
    lam = per_row([1 - box_area(box) / (height * width) for box in boxes], images)
    mask, whole = boxes_mask(sides, height, width), (len(images), 4)
    record = Mixed(images, labels, partner, lam, lam, mask, box=sides.expand(whole), interpolation=interpolation)
    if sources is not None:
        record = replace(record, source_box=as_sources(sources, images.device).expand(whole))
    elif len(boxes) == 1 or images.device.type == "cpu":  # nothing of (B, C, H, W) but the result is written
        return replace(record, images=paste(images, boxes, partner))
    return replace(record, images=mix_pixels(record, images))
