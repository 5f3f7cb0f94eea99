"""The numbers on the page: from two images, a box and a rule to attention, label weights, and classes.

Independent of the page itself. `lam` is the weight of image A's own label everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from transmix.app.model import LAST, MEAN, PageModel
from transmix.labels.attention import attention_labels
from transmix.labels.patches import mask_on_patches
from transmix.mixing import Mixed, mixup
from transmix.mixing.box import Box, box_area
from transmix.visual.boxes import PastedBox, paste


@dataclass(frozen=True)
class Setting:
    """Setting of the controls.

    Attributes:
        box: (top, left, bottom, right) in pixels of the model's input.
        lam: Weight of image A in a blend, 0..1.
        blend: Mixup instead of a box.
        rule: Label rule: "area" (CutMix), "attention" alone, or "trained" (the run's rule, else TransMix).
        layer: Layer whose attention is used, or `LAST`.
        head: Head whose attention is used, or `MEAN`.
        downsample: How the box mask is downsampled to patches, as in `attention_labels`.
    """

    box: Box
    lam: float = 0.5
    blend: bool = False
    rule: str = "trained"
    layer: int = LAST
    head: int = MEAN
    downsample: str = "nearest"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a setting.

    Attributes:
        mixed: (3, H, W) uint8.
        mask: (H, W) bool, where B's pixels are; None in a blend.
        attention: (P,) of the class token over the mixed image.
        grid: (h, w), h * w = P.
        lam: Rule -> weight of image A's label.
        classes: Index and probability of the most likely classes, most likely first.
        remarks: Notes about unusual boxes, one sentence each.
    """

    mixed: Tensor
    mask: Tensor | None
    attention: Tensor
    grid: tuple[int, int]
    lam: dict[str, float]
    classes: list[tuple[int, float]]
    remarks: tuple[str, ...] = ()


def show(setting: Setting, own: Tensor, partner: Tensor, model: PageModel, most: int = 3) -> Outcome:
    """Mix image A with image B, run the model, and compute the label weights.

    Args:
        setting: Setting of the controls.
        own: Image A, (3, H, W) uint8.
        partner: Image B, (3, H, W) uint8.
        model: The model.
        most: Maximum number of classes.
    """
    mixed = mix(setting, own, partner)
    attention, logits = model.see(mixed.images[0], setting.layer, setting.head)
    weigh = partial(attention_labels, mixed, attention[None], grid=model.grid, downsample=setting.downsample)
    lam = {rule: weigh(weight=weight).lam.item() for rule, weight in model.weights.items()}
    found = logits.softmax(0).topk(min(most, len(logits)))
    classes = list(zip(found.indices.tolist(), found.values.tolist(), strict=True))
    mask = None if mixed.mask is None else mixed.mask[0]
    return Outcome(mixed.images[0], mask, attention, model.grid, lam, classes, remarks(mixed, model.grid, setting))


def mix(setting: Setting, own: Tensor, partner: Tensor) -> Mixed:
    """Return the mixed image of a setting as a batch of one; its partner is not in the batch."""
    if not setting.blend:
        return paste([PastedBox(0, 1, setting.box)], [own, partner].__getitem__)
    both = mixup(torch.stack([own, partner]), torch.tensor([0, 1]), setting.lam)
    return Mixed(both.images[:1], both.labels[:1], None, both.lam[:1], both.lam_area[:1])


def remarks(mixed: Mixed, grid: tuple[int, int], setting: Setting) -> tuple[str, ...]:
    """Return notes about an unusual mix."""
    if mixed.mask is None:
        return ("A blend has no box, so attention cannot weigh it: by every rule the label is the mixing ratio.",)
    if not mixed.mask.any():
        return ("The box is empty: nothing of B is in the picture, and A keeps all of its label.",)
    if mixed.mask.all():
        return ("The box covers the whole picture: nothing of A is left, and B gets all of the label.",)
    if setting.downsample == "nearest" and not mask_on_patches(mixed.mask, grid, "nearest").any():
        return (
            "The box holds no patch's top left pixel: as “nearest” brings it down to patches, attention sees nothing "
            "of it. “fraction” counts the part of each patch that it covers.",
        )
    return ()


def sides_of(box: Sequence[int]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a box (top, left, bottom, right)."""
    top, left, bottom, right = box
    return top, left, bottom - top, right - left


def box_within(sides: Sequence[float | None], height: int, width: int) -> Box:
    """Make a box from (top, left, height, width) that a user typed or dragged: whole pixels, clipped to the image.

    Raises:
        ValueError: They are not four finite numbers.
    """
    numbers = [side for side in sides if side is not None and math.isfinite(side)]
    if len(sides) != 4 or len(numbers) != 4:
        raise ValueError("The box needs four numbers: top, left, height and width in pixels.")
    limits = (height, width, height, width)
    top, left, tall, wide = (round(min(max(side, 0), limit)) for side, limit in zip(numbers, limits, strict=True))
    return top, left, min(top + tall, height), min(left + wide, width)


def scaled_box(box: Box, lam: float, height: int, width: int) -> Box:
    """Scale a box around its centre until it leaves `lam` of the image's area to image A, up to whole pixels.

    The aspect ratio stays; an empty box takes the image's, as in CutMix. CutMix clips a box at the image border, so its
    area no longer fits `lam`; here the box is moved inside instead, and if one side is full, the other one grows.
    """
    top, left, bottom, right = box
    ratio = (bottom - top) / (right - left) if box_area(box) else height / width
    area = (1 - lam) * height * width
    if area <= 0:
        tall = wide = 0
    else:
        exact = min(max(math.sqrt(area * ratio), area / width), height)
        tall, wide = round(exact), round(min(area / exact, width))
    top = min(max(round((top + bottom - tall) / 2), 0), height - tall)
    left = min(max(round((left + right - wide) / 2), 0), width - wide)
    return top, left, top + tall, left + wide


def percents(lam: float) -> tuple[float, float]:
    """Return the shares of A and of B in percent to one decimal; they sum to 100."""
    own = round(100 * lam, 1)
    return own, round(100 - own, 1)
