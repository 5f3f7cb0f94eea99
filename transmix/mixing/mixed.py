"""The record `Mixed`: the result of mixing, which labels, losses, figures and other mixers use.

Everything here is pure: inputs are not modified, nothing is random, device and dtype follow the input.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from transmix.mixing.pixels import blend, move_box, on_mask

IGNORED = -100
"""The class of a row without a label, as `ignore_index` of torch's losses: it adds nothing to loss or accuracy."""


@dataclass(frozen=True, eq=False, repr=False)
class Mixed:
    """A mixed batch, with everything that a label rule, a loss or a figure needs.

    `lam` has one orientation everywhere: the weight of the row's OWN label, as in the mixup paper.

        label of row i = lam[i] * label(i) + (1 - lam[i]) * label(partner[i])

    Attributes:
        images: (B, C, H, W) the mixed images, in the type that came in.
        labels: (B,) int64 classes, or (B, K) float, of the rows' own images. Class -100 (`IGNORED`) is no label.
        partner: (B,) int64, the row whose image came in; a row without a partner is its own. None: no row has one in
            this batch.
        lam: (B,) float32 in [0, 1], the weight of the row's own label.
        lam_area: (B,) float32, the same before any label rule changed it.
        mask: (B or 1, H, W), the partner's share of each pixel: bool, or float32 in [0, 1] for soft masks. Rows
            without one (blended, unmixed) are empty. None if no row has one.
        rule: the label rule that gave `lam`: "area", "attention" or another of `transmix.labels.RULES`.
        lam_partner: (B,) float32, the weight of the partner's label; None: 1 - lam. The two need not sum to 1.
        lam_evidence: (B,) float32, `lam` by what the rule looks at alone, before the area came in; None if the rule
            does not say.
        blend: (B,) float32, the weight of the row's own pixels where the whole image is blended, else 1. None if no
            row is blended.
        box: (B, 4) int64, where the partner's pixels are, (top, left, bottom, right) in pixels, half-open; empty in
            rows without a box. None if no row has one.
        source_box: (B, 4) int64, where in the partner they come from, resized to `box`; None: from the same place.
            float64 where bottom or right are fractions of a pixel (ResizeMix samples by a scale).
        interpolation: how `source_box` was resized: "nearest", "bilinear" or "bilinear corners" (align_corners=True).

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
    lam_partner: Tensor | None = None
    lam_evidence: Tensor | None = None
    blend: Tensor | None = None
    box: Tensor | None = None
    source_box: Tensor | None = None
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        if self.partner is not None:
            check_rows(self.partner, len(self.labels))

    def __repr__(self) -> str:
        """Shapes alone: values would have to wait for the device."""
        how = [] if self.blend is None else ["blended"]
        if self.mask is not None:
            how.append("boxes" if self.box is not None else "soft masks" if self.mask.is_floating_point() else "masks")
        images = f"{tuple(self.images.shape)} {str(self.images.dtype).removeprefix('torch.')} {self.images.device}"
        return f"Mixed(images {images}, {' and '.join(how) or 'unmixed'}, labels by {self.rule})"

    @property
    def ndim(self) -> int:
        """Axes of the labels: 1 for classes, 2 for (B, K). timm's tasks ask a target for it."""
        return self.labels.ndim

    def is_floating_point(self) -> bool:
        """Whether labels are weights (B, K)."""
        return self.labels.is_floating_point()

    def of_partner(self, rows: Tensor) -> Tensor:
        """Return the partners' entries of a tensor with one entry per row, (B, ...)."""
        return rows if self.partner is None else rows[self.partner]

    def targets(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Return the label of every row as a dense distribution.

        y = own * lam + partner's * (1 - lam), each smoothed first: y * (1 - s) + s / K; with `lam_partner` that in the
        place of 1 - lam. A class of -100 is a row of zeros. Where a weight is 0, what it weighs does not matter, not
        even a NaN.

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
        theirs = 1 - lam if self.lam_partner is None else self.lam_partner[:, None]
        if not self.labels.is_floating_point():
            return lam * own + theirs * partners
        # 0 * NaN is NaN
        return torch.where(lam == 0, 0, lam * own) + torch.where(theirs == 0, 0, theirs * partners)

    def pasted(self, tensor: Tensor) -> Tensor:
        """Return each partner's entry of a tensor, moved to where the partner's pixels are.

        Args:
            tensor: (B, ..., H, W) in the size of the images: images, masks, maps.

        Returns:
            The same shape and type. Where the partner's pixels come from elsewhere than they go (`source_box`), 0
            outside of `box`, and types without fractions are resized by nearest neighbour.

        Raises:
            ValueError: a tensor of another batch or size, or partners that are no rows of this batch.
        """
        self._check_fits(tensor)
        if self.partner is None and self.mask is not None:
            raise ValueError("the partners of these images are no rows of this batch, so what they have is not here")
        theirs = self.of_partner(tensor)
        if self.source_box is None or self.box is None:
            return theirs
        return move_box(theirs, self.source_box, self.box, self.interpolation)

    def apply(self, tensor: Tensor) -> Tensor:
        """Mix another tensor as the images were mixed: a second view, segmentation, foreground.

        Args:
            tensor: (B, ..., H, W) in the size of the images.

        Returns:
            The same shape and type; `mixed.apply(images)` is `mixed.images`.

        Raises:
            ValueError: a tensor of another batch or size; one of integers or bool where pixels were blended (by Mixup,
                or a soft mask): a class between two classes does not exist.
        """
        self._check_fits(tensor)
        is_soft = self.blend is not None or (self.mask is not None and self.mask.is_floating_point())
        if is_soft and not tensor.is_floating_point():
            raise ValueError(
                f"the images were blended, and values of {tensor.dtype} cannot be: there is no class between two "
                f"classes. Pass tensor.float() if they are amounts"
            )
        return mix_pixels(self, tensor)

    def _check_fits(self, tensor: Tensor) -> None:
        size = tuple(self.images.shape[-2:])
        if tensor.ndim < 3 or len(tensor) != len(self.labels) or tuple(tensor.shape[-2:]) != size:
            raise ValueError(
                f"expected ({len(self.labels)}, ..., {size[0]}, {size[1]}), as the images, got {tuple(tensor.shape)}"
            )

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Mixed":
        """Return the record with all its tensors on `device`; `non_blocking` as in `Tensor.to`."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Mixed":
        """Return the record in pinned memory. `DataLoader(pin_memory=True)` calls this for what it does not know."""
        return self._with_each(lambda tensor: tensor.pin_memory())

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Mixed":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


def mix_pixels(mixed: Mixed, tensor: Tensor) -> Tensor:
    """Mix a tensor (B, ..., H, W) as a record says; integers are rounded. `Mixed.apply` checks first."""
    whole = tensor if mixed.blend is None or mixed.partner is None else blend(tensor, mixed.blend, mixed.partner)
    if mixed.mask is not None:
        return on_mask(whole, mixed.pasted(tensor), mixed.mask)
    return tensor.clone() if whole is tensor else whole


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
