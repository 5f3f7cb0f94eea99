"""What the page shows, worked out from what the controls hold: images read, the box found, the model run, labels.

Independent of the page itself. `lam` is the weight of image A's own label everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from transmix.app.model import LAST, MEAN, Image, PageModel, Seen
from transmix.attention import AttentionError
from transmix.data.dataset import DataError
from transmix.labels.evidence import Evidence, Rule
from transmix.labels.patches import mask_on_patches
from transmix.mixing import Mixed, cutmix, mixup
from transmix.mixing.box import Box, box_area
from transmix.visual.labels import NO_MASKS, label, why_not

UNKNOWN = (None, None)
"""Class numbers of two images whose classes are not known."""


@dataclass(frozen=True)
class Setting:
    """Setting of the controls.

    Attributes:
        box: (top, left, bottom, right) in pixels of the model's input, for CutMix.
        lam: Weight of image A in a blend, 0..1, for Mixup.
        method: Name of the mixing method.
        seed: Seed of what other methods draw.
        rule: Name of the label rule, as in `PageModel.rules`.
        layer: Layer whose attention is used, or `LAST`.
        head: Head whose attention is used, or `MEAN`.
        downsample: How the box mask is downsampled to patches, as in `attention_labels`.
    """

    box: Box
    lam: float = 0.5
    method: str = "cutmix"
    seed: int = 0
    rule: str = "trained"
    layer: int = LAST
    head: int = MEAN
    downsample: str = "nearest"

    def rule_of(self, name: str, model: PageModel) -> Rule:
        """Return a rule of the model with the setting's way down to patches, if it has one."""
        rule = model.rules[name]
        return replace(rule, downsample=self.downsample) if hasattr(rule, "downsample") else rule  # type: ignore[type-var]


class Label(NamedTuple):
    """Weights of both classes in a label; of a few rules they do not sum to 1."""

    own: float
    partner: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a setting.

    Attributes:
        mixed: (3, H, W) uint8.
        mask: (H, W) bool or float, B's share of each pixel; None in a blend.
        attention: (P,) of the class token over the mixed image.
        grid: (h, w), h * w = P.
        labels: Rule -> label.
        reasons: Rule -> why it gives no label here.
        lam_area: Weight of A by area, for the controls.
        classes: Index and probability of the most likely classes, most likely first.
        remarks: Notes about unusual boxes, one sentence each.
    """

    mixed: Tensor
    mask: Tensor | None
    attention: Tensor
    grid: tuple[int, int]
    labels: dict[str, Label]
    reasons: dict[str, str]
    lam_area: float
    classes: list[tuple[int, float]]
    remarks: tuple[str, ...] = ()

    @property
    def lam(self) -> dict[str, float]:
        """Rule -> weight of image A's label."""
        return {rule: one.own for rule, one in self.labels.items()}

    @property
    def half(self) -> int:
        """How many patches, those looked at most, hold half of the attention."""
        most = self.attention.double().sort(descending=True).values.cumsum(0)
        return int((most < most[-1] / 2).sum()) + 1


@dataclass(frozen=True)
class Controls:
    """Values of the page's controls, as the browser sent them.

    Attributes:
        own: Image A; None: not chosen yet.
        partner: Image B.
        box: (top, left, bottom, right) in pixels.
        anchor: Last box set by hand; the ratio slider scales it.
        ratio: lam in 0..1: the weight of A in a blend, else the area fraction of A.
        method: As in `Setting`, and so are the following.
        seed: A whole number.
        rule: Name.
        layer: Layer number, or `LAST`.
        head: Head number, or `MEAN`.
        downsample: "nearest" or "fraction".
        moved: Control that changed last: "ratio", "box", or another name.
    """

    own: Image | None
    partner: Image | None
    box: tuple[float | None, ...]
    anchor: Box
    ratio: float = 0.5
    method: str = "cutmix"
    seed: int = 0
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
        given: Images A and B, as in `Controls`.
        names: Their classes, "A" and "B" where those are not known.
        images: The two as the model takes them, (3, H, W) uint8; None where there is none.
        shown: Result of mixing; None unless both images are given.
        errors: Error messages.
        remarks: Other notes for the user.
    """

    setting: Setting
    anchor: Box
    lam: float
    given: tuple[Image | None, Image | None]
    names: tuple[str, str]
    images: tuple[Tensor | None, Tensor | None]
    shown: Outcome | None
    errors: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())


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
        setting, anchor, ratio = _settle(replace(controls, box=controls.anchor, moved=""), model)
    given = controls.own, controls.partner
    own, partner = (_image(one, model, errors) for one in given)
    missing = " and ".join(name for name, one in zip(("image A", "image B"), given, strict=True) if one is None)
    remark = f"There is no {missing} yet: drop a file on its field, or use the example photographs."
    names, shown = class_names(given, model), None
    if own is not None and partner is not None:
        known = [None if one is None else model.label(one) for one in given]
        both = [one for one in given if one is not None]
        shown = show(setting, own, partner, model, (known[0], known[1]), model.foreground(both))
        ratio = shown.lam_area
    remarks = shown.remarks if shown else (remark,) if missing else ()
    return Answer(setting, anchor, ratio, given, names, (own, partner), shown, tuple(errors), remarks)


def class_names(given: tuple[Image | None, Image | None], model: PageModel) -> tuple[str, str]:
    """Return the class names of two images; "A" and "B" where they are not known."""
    labels = [None if one is None else model.label(one) for one in given]
    own, partner = (
        letter if label is None or model.classes is None else model.classes[label]
        for letter, label in zip("AB", labels, strict=True)
    )
    return own, partner


def _settle(controls: Controls, model: PageModel) -> tuple[Setting, Box, float]:
    """Return the setting, the box last set by hand, and the mixing ratio."""
    height, width = model.size
    ratio = min(max(controls.ratio, 0.0), 1.0)
    if controls.moved == "ratio" and controls.method != "mixup":
        anchor, box = controls.anchor, scaled_box(controls.anchor, ratio, height, width)
    else:
        box = box_within(controls.box, height, width)
        anchor = box if controls.moved == "box" else controls.anchor
    layer = controls.layer if controls.layer in model.heads else LAST
    head = controls.head if controls.head < model.heads.get(model.number_of(layer), 0) else MEAN
    lam = ratio if controls.method == "mixup" else 1 - box_area(box) / (height * width)
    how = controls.method, controls.seed, controls.rule, layer, head, controls.downsample
    return Setting(box, lam, *how), anchor, lam


def _image(one: Image | None, model: PageModel, errors: list[str]) -> Tensor | None:
    """Read and crop an image for the model; append a message to the errors if that fails."""
    if one is None:
        return None
    try:
        return model.image(one)
    except DataError as error:
        errors.append(f"{error}.")
        return None


def show(
    setting: Setting,
    own: Tensor,
    partner: Tensor,
    model: PageModel,
    classes: tuple[int | None, int | None] = UNKNOWN,
    foreground: tuple[Tensor | None, str] = (None, NO_MASKS),
    most: int = 3,
) -> Outcome:
    """Mix image A with image B, run the model, and compute the label weights by every rule.

    Args:
        setting: Setting of the controls.
        own: Image A, (3, H, W) uint8.
        partner: Image B, (3, H, W) uint8.
        model: The model.
        classes: Class numbers of both; None: not known.
        foreground: Where the objects of both are, (2, H, W) bool; or None, and why it is not known.
        most: Maximum number of classes shown.
    """
    images = torch.stack([own, partner])
    inputs = model.normalise(images)
    mixed = mix(setting, inputs, classes, model)
    seen, row = model.see(mixed.images[0]), model.row(mixed.images[0], setting.layer, setting.head)
    labels, reasons = label_by_rules(setting, mixed, inputs, seen, row, model, (None not in classes, *foreground))
    found = seen.logits.softmax(0).topk(min(most, len(seen.logits)))
    picture = mixed.to("cpu").apply(images.float())[0].round().byte()
    mask = None if mixed.mask is None else mixed.mask[0].cpu()
    return Outcome(
        picture, mask, row, model.grid, labels, reasons, mixed.lam_area[0].item(),
        list(zip(found.indices.tolist(), found.values.tolist(), strict=True)), remarks(mixed, setting, model),
    )  # fmt: skip


def mix(setting: Setting, inputs: Tensor, classes: tuple[int | None, int | None], model: PageModel) -> Mixed:
    """Mix two normalised images (2, 3, H, W), each with the other; row 0 is A's."""
    labels = torch.tensor([0, 1] if None in classes else classes, device=inputs.device)
    if setting.method == "cutmix":
        return cutmix(inputs, labels, setting.box)
    if setting.method == "mixup":
        return mixup(inputs, labels, setting.lam)
    return model.mix(setting.method, setting.seed, inputs, labels)


def label_by_rules(
    setting: Setting,
    mixed: Mixed,
    inputs: Tensor,
    seen: Seen,
    row: Tensor,
    model: PageModel,
    known: tuple[bool, Tensor | None, str],
) -> tuple[dict[str, Label], dict[str, str]]:
    """Return the labels by rule, and why the other rules give none.

    The model has run on the mixed row of A alone; rules look at both rows, so that of B gets the same evidence, and its
    label is not used.

    Args:
        setting: Setting of the controls.
        mixed: Row 0 is A's.
        inputs: (2, 3, H, W), normalised, before mixing.
        seen: The model's forward on row 0.
        row: (P,) attention to use, perhaps of another layer or head.
        model: The model.
        known: Whether the classes are known; where the objects are, (2, H, W) bool or None; why not.
    """
    with_classes, foreground, no_masks = known
    clean = torch.stack([model.see(image).attention for image in inputs])
    evidence = Evidence(
        attention=model.attention(row.expand(2, -1)),
        logits=seen.logits.expand(2, -1),
        clean=model.attention(clean),
        foreground=foreground,
        rollout=seen.rollout,
    )
    labels, reasons, both, first = {}, dict(model.no_rules), mixed.to("cpu"), _first_row(mixed)
    for name in model.rules.keys() - reasons.keys():
        rule = setting.rule_of(name, model)
        if reason := why_not(rule, with_classes, no_masks):
            reasons[name] = reason
            continue
        if "maps" in rule.needs:
            evidence = replace(evidence, maps=torch.stack(model.maps(mixed.images[0]), 1).expand(2, -1, -1, -1, -1))
        try:
            found = label(first if "rollout" in rule.needs else both, rule, evidence)
        except AttentionError as error:
            reasons[name] = str(error)
            continue
        lam = found.lam[0].item()
        labels[name] = Label(lam, 1 - lam if found.lam_partner is None else found.lam_partner[0].item())
    return {name: labels[name] for name in model.rules if name in labels}, reasons


def _first_row(mixed: Mixed) -> Mixed:
    """Return row 0 alone, whose partner is then outside of the batch."""
    mask = None if mixed.mask is None else mixed.mask[:1]
    return Mixed(mixed.images[:1], mixed.labels[:1], None, mixed.lam[:1], mixed.lam_area[:1], mask)


def remarks(mixed: Mixed, setting: Setting, model: PageModel) -> tuple[str, ...]:
    """Return notes about an unusual mix."""
    if mixed.mask is None:
        return ("A blend has no box, so attention cannot weigh it: by every rule the label is the mixing ratio.",)
    mask = mixed.mask[:1]
    if not mask.any():
        return ("The box is empty: nothing of B is in the picture, and A keeps all of its label.",)
    if mask.min() == 1:
        return ("The box covers the whole picture: nothing of A is left, and B gets all of the label.",)
    if setting.downsample == "nearest" and not mask_on_patches(mask, model.grid, "nearest", model.extent).any():
        return (
            "The box holds no patch's top left pixel: as “nearest” brings it down to patches, attention sees nothing "
            "of it. “fraction” counts the part of each patch that it covers.",
        )
    return ()


def box_within(sides: Sequence[float | None], height: int, width: int) -> Box:
    """Make a box from (top, left, bottom, right) as a browser sent it: whole pixels, clipped to the image.

    Raises:
        ValueError: They are not four finite numbers.
    """
    numbers = [side for side in sides if side is not None and math.isfinite(side)]
    if len(sides) != 4 or len(numbers) != 4:
        raise ValueError("The box needs four numbers: top, left, bottom and right in pixels.")
    limits = (height, width, height, width)
    top, left, bottom, right = (round(min(max(side, 0), limit)) for side, limit in zip(numbers, limits, strict=True))
    return top, left, max(top, bottom), max(left, right)


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


def percents(label: Label) -> tuple[float, float]:
    """Return the weights of A and of B in percent to one decimal; those of a label that sums to 1 sum to 100."""
    own = round(100 * label.own, 1)
    both = label.own + label.partner
    return own, round(100 - own, 1) if abs(both - 1) < 1e-6 else round(100 * label.partner, 1)
