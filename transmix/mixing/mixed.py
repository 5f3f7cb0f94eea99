"""What mixing makes: the record `Mixed`, and the two ways to make it, `cutmix` and `mixup`.

Everything here is pure: inputs are not modified, nothing is random, device and dtype follow the input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from transmix.mixing.box import Box, box_area, check_box

IGNORED = -100
"""The class of a row without a label, as `ignore_index` of torch's losses: it adds nothing to loss or accuracy."""


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixed batch, and all that a label rule, a loss or a figure needs to know about it.

    `lam` has one orientation everywhere: the weight of the row's OWN label, as in the mixup paper.

        label of row i = lam[i] * label(i) + (1 - lam[i]) * label(partner[i])

    Attributes:
        images: (B, C, H, W) the mixed images, in the type that came in.
        labels: (B,) int64 classes, or (B, K) float, of the rows' own images. Class -100 (`IGNORED`) is no label.
        partner: (B,) int64, the row whose image came in; a row without a partner is its own. None: no row has one in
            this batch.
        lam: (B,) float32 in [0, 1], the weight of the row's own label.
        lam_area: (B,) float32, the same before any label rule changed it.
        mask: (B or 1, H, W) bool, True where the partner's pixels are; rows without a box are all False.
            None if no row has a box.
        rule: the label rule that gave `lam`: "area", or "attention".

    Raises:
        ValueError: a partner that is no row of the batch. (Checked on the CPU; elsewhere it would have to wait for the
            device.)
    """

    images: Tensor
    labels: Tensor
    partner: Tensor | None
    lam: Tensor
    lam_area: Tensor
    mask: Tensor | None = None
    rule: str = "area"

    def __post_init__(self) -> None:
        if self.partner is not None:
            check_rows(self.partner, len(self.labels))

    @property
    def ndim(self) -> int:
        """Axes of the labels: 1 for classes, 2 for (B, K). timm's tasks ask a target for it."""
        return self.labels.ndim

    def is_floating_point(self) -> bool:
        """Whether labels are weights (B, K)."""
        return self.labels.is_floating_point()

    def of_partner(self, rows: Tensor) -> Tensor:
        """Return what the partners have, of something that each row has: (B, ...)."""
        return rows if self.partner is None else rows[self.partner]

    def targets(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Return the label of every row as a dense distribution.

        y = own * lam + partner's * (1 - lam), each smoothed first: y * (1 - s) + s / K. A class of -100 is a row of
        zeros. Where a weight is 0, what it weighs does not matter, not even a NaN.

        Args:
            num_classes: K.
            smoothing: s in [0, 1).

        Returns:
            (B, K) float32.
        """
        own = dense_labels(self.labels, num_classes) * (1 - smoothing) + smoothing / num_classes
        if not self.labels.is_floating_point():
            own = own * (self.labels != IGNORED)[:, None]
        lam, partners = self.lam[:, None], self.of_partner(own)
        mixed = lam * own + (1 - lam) * partners
        if self.labels.is_floating_point():  # 0 * NaN is NaN
            mixed = torch.where(lam == 1, own, torch.where(lam == 0, partners, mixed))
        return mixed

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Mixed":
        """Return the record with all its tensors on `device`; `non_blocking` as in `Tensor.to`."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Mixed":
        """Return the record in pinned memory. `DataLoader(pin_memory=True)` calls this for what it does not know."""
        return self._with_each(lambda tensor: tensor.pin_memory())

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Mixed":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


def dense_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels (B,) int64 or (B, K) float as (B, K) float32; of class -100, class 0.

    Raises:
        ValueError: float labels whose width is not `num_classes`; on the CPU, a class that is none of them.
    """
    if labels.is_floating_point():
        if labels.shape[-1] != num_classes:
            raise ValueError(f"labels have {labels.shape[-1]} columns, but there are {num_classes} classes")
        return labels.float()
    return torch.nn.functional.one_hot(check_classes(labels, num_classes), num_classes).float()


def check_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return classes (B,) with 0 in the place of -100, so that they can index.

    Raises:
        ValueError: on the CPU, where it costs no waiting, a class outside of 0 to K - 1.
    """
    known = torch.where(labels == IGNORED, 0, labels)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and len(labels):
        low, high = int(known.min()), int(known.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"class {low if low < 0 else high} is none of the {num_classes} that the model predicts (0 to "
                f"{num_classes - 1}); a row without a label has class {IGNORED}"
            )
    return known


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
    partner = check_partner(images, partner)
    height, width = images.shape[-2:]
    boxes = _as_boxes(box, len(images), height, width)
    mask = box_mask(boxes, height, width, images.device)
    lam = per_row([1 - box_area(b) / (height * width) for b in boxes], images)
    return Mixed(paste(images, images, boxes, mask, partner), labels, partner, lam, lam, mask)


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
    return Mixed(blended, labels, partner, weights, weights)


def paste(onto: Tensor, images: Tensor, boxes: Sequence[Box], mask: Tensor, partner: Tensor) -> Tensor:
    """Return `onto` with each row's box filled from its partner in `images`; all (B, C, H, W)."""
    if len(boxes) > 1:
        return torch.where(mask[:, None], images[partner], onto)
    top, left, bottom, right = boxes[0]
    pasted = onto.clone()  # keeps channels_last
    pasted[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
    return pasted


def blend(images: Tensor, lam: float | Tensor, partner: Tensor) -> Tensor:
    """Return lam * images + (1 - lam) * partners, in the images' type; lam a number or (B,)."""
    exact = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    if isinstance(lam, Tensor):
        lam = lam.to(exact).view(-1, 1, 1, 1)
    blended = images[partner].to(exact).lerp_(images.to(exact), lam)  # in place: indexing has made a copy
    if isinstance(lam, Tensor):  # a row that is not mixed takes nothing of its partner, not even a NaN
        blended = torch.where(lam == 1, images.to(exact), blended)
    return blended.round_().to(images.dtype) if not images.is_floating_point() else blended.to(images.dtype)


def box_mask(boxes: Sequence[Box], height: int, width: int, device: torch.device) -> Tensor:
    """Return (len(boxes), H, W) bool, True inside each box."""
    sides = torch.tensor(boxes).to(device, non_blocking=True)[:, :, None]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= sides[:, 0]) & (rows < sides[:, 2])
    in_columns = (columns >= sides[:, 1]) & (columns < sides[:, 3])
    return in_rows[:, :, None] & in_columns[:, None, :]


def per_row(values: Sequence[float], images: Tensor) -> Tensor:
    """Return one value, or one per row, as (B,) float32 on the images' device, without waiting for it."""
    rows = torch.tensor(values, dtype=torch.float32).to(images.device, non_blocking=True)
    return rows.expand(len(images)).contiguous()


def check_batch(images: Tensor, labels: Tensor) -> Tensor:
    """Return labels as int64 or float, having checked that they fit the images.

    Raises:
        ValueError: images that are not (B, C, H, W), labels of another batch size, shape or type.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("the batch is empty: there is nothing to mix")
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images came with {len(labels)} labels")
    if labels.ndim == 2 and (labels.is_floating_point() or labels.dtype == torch.bool):
        return labels if labels.is_floating_point() else labels.float()
    if labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool:
        return labels.long()
    raise ValueError(
        f"labels must be classes (B,) of an integer type or weights (B, K) of a float type, "
        f"not {tuple(labels.shape)} {labels.dtype}"
        + (": pass labels.squeeze(1)" if labels.ndim == 2 and labels.shape[1] == 1 else "")
    )


def check_partner(images: Tensor, partner: Tensor | None) -> Tensor:
    """Return the partner of each row, (B,) int64 on the images' device; None means the flipped batch."""
    if partner is None:
        return torch.arange(len(images) - 1, -1, -1, device=images.device)
    if partner.shape != (len(images),) or partner.is_floating_point():
        raise ValueError(f"partner must be ({len(images)},) row numbers, not {tuple(partner.shape)} {partner.dtype}")
    check_rows(partner, len(images))
    return partner.long().to(images.device)


def check_rows(partner: Tensor, batch: int) -> None:
    """Check partners (B,) on the CPU; elsewhere it would have to wait for the device.

    Raises:
        ValueError: a partner that is no row of the batch.
    """
    if partner.device.type != "cpu" or torch.compiler.is_compiling() or not len(partner):
        return
    low, high = int(partner.min()), int(partner.max())
    if low < 0 or high >= batch:
        raise ValueError(
            f"partner holds row {low if low < 0 else high}, but the batch has rows 0 to {batch - 1}. A row without a "
            f"partner is its own; partner=None if no row has one"
        )


def _as_boxes(box: Box | Sequence[Box] | Tensor, batch: int, height: int, width: int) -> list[Box]:
    rows = box.tolist() if isinstance(box, Tensor) else box
    rows = [rows] if isinstance(rows[0], int | float) else list(rows)  # type: ignore[index]
    if len(rows) not in (1, batch):
        raise ValueError(f"one box for the batch or one per row ({batch}), not {len(rows)}")
    return [check_box(tuple(row), height, width) for row in rows]  # type: ignore[arg-type]
