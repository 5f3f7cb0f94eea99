"""What the page shows, worked out from what the controls hold: images read, the box found, the model run, labels.

Independent of the page itself. `lam` is the weight of image A's own label everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.picture import read_picture
from transmix.data.dataset import DataError
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


@dataclass(frozen=True)
class Controls:
    """Values of the page's controls, as the browser sent them.

    Attributes:
        own: File of image A; None: not chosen yet.
        partner: File of image B.
        box: (top, left, height, width) in pixels; None for an empty field.
        anchor: Last box set by hand; the ratio slider scales it.
        ratio: lam in 0..1: the weight of A in a blend, else the area fraction of A.
        blend: Mixup instead of a box.
        rule: As in `Setting`.
        layer: Layer number, or `LAST`.
        head: Head number, or `MEAN`.
        downsample: "nearest" or "fraction".
        moved: Control that changed last: "ratio", "box", or another name.
    """

    own: Path | None
    partner: Path | None
    box: tuple[float | None, ...]
    anchor: Box
    ratio: float = 0.5
    blend: bool = False
    rule: str = "trained"
    layer: int = LAST
    head: int = MEAN
    downsample: str = "nearest"
    moved: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the page shows.

    Attributes:
        setting: Setting that follows from the controls.
        anchor: As in `Controls`, for the next call.
        lam: New value of the mixing ratio's control.
        files: Of A and B.
        images: The two as the model takes them, (3, H, W) uint8; None where there is none.
        shown: Result of mixing; None unless both images are given.
        errors: Error messages.
        remarks: Other notes for the user.
    """

    setting: Setting
    anchor: Box
    lam: float
    files: tuple[Path | None, Path | None]
    images: tuple[Tensor | None, Tensor | None]
    shown: Outcome | None
    errors: tuple[str, ...]
    remarks: tuple[str, ...]


def answer(controls: Controls, model: PageModel) -> Answer:
    """Compute what the page shows; an invalid image or box becomes a message, not an exception.

    Args:
        controls: Values of the controls.
        model: The model.
    """
    errors: list[str] = []
    try:
        setting, anchor, ratio = _settle(controls, model)
    except ValueError as error:
        errors.append(str(error))
        setting, anchor, ratio = _settle(replace(controls, box=sides_of(controls.anchor), moved=""), model)
    files = controls.own, controls.partner
    own, partner = (_image(path, model, errors) for path in files)
    missing = " and ".join(name for name, path in zip(("image A", "image B"), files, strict=True) if not path)
    remark = f"There is no {missing} yet: drop a file on its field, or use the example photographs."
    shown = None if own is None or partner is None else show(setting, own, partner, model)
    remarks = shown.remarks if shown else (remark,) if missing else ()
    return Answer(setting, anchor, ratio, files, (own, partner), shown, tuple(errors), remarks)


def _settle(controls: Controls, model: PageModel) -> tuple[Setting, Box, float]:
    """Return the setting, the box last set by hand, and the mixing ratio."""
    height, width = model.size
    ratio = min(max(controls.ratio, 0.0), 1.0)
    if controls.moved == "ratio" and not controls.blend:
        anchor, box = controls.anchor, scaled_box(controls.anchor, ratio, height, width)
    else:
        box = box_within(controls.box, height, width)
        anchor = box if controls.moved == "box" else controls.anchor
    layer = controls.layer if controls.layer in model.heads else LAST
    head = controls.head if controls.head < model.heads.get(model.number_of(layer), 0) else MEAN
    lam = ratio if controls.blend else 1 - box_area(box) / (height * width)
    return Setting(box, lam, controls.blend, controls.rule, layer, head, controls.downsample), anchor, lam


def _image(path: Path | None, model: PageModel, errors: list[str]) -> Tensor | None:
    """Read and crop an image for the model; append a message to the errors if that fails."""
    if path is None:
        return None
    try:
        return model.loaded.preprocessing.crop(read_picture(path, model.loaded.preprocessing.grey))
    except DataError as error:
        errors.append(f"{error}.")
        return None


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
