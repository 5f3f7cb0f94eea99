"""What the page shows, worked out from what the controls hold: read the images, find the box, run the model, label."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.parts import write_code
from transmix.app.picture import read_picture
from transmix.app.values import Outcome, Setting, box_within, scaled_box, show, sides_of
from transmix.data.dataset import DataError
from transmix.mixing.box import Box, box_area


@dataclass(frozen=True)
class Controls:
    """What the controls hold, as it came from the browser.

    Attributes:
        own: File of image A, None where there is none.
        partner: File of image B.
        box: (top, left, height, width) in pixels; what is None is not filled in.
        anchor: The box last set by hand, which the ratio scales.
        ratio: lam, 0..1: in a blend the weight of A, else the area left to A.
        blend: Mixup instead of a box.
        rule: As in `Setting`.
        layer: Number of a layer, or `LAST`.
        head: Of a head, or `MEAN`.
        downsample: "nearest" or "fraction".
        moved: What was moved last: "ratio", "box", or anything else.
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
        setting: What was understood.
        anchor: As in `Controls`, for the next time.
        lam: Of the mixing ratio's control.
        images: A and B as the model takes them, (3, H, W) uint8; None where there is none.
        shown: None unless both images are there.
        code: Python that reproduces `shown`; None where it is None.
        errors: What cannot be done, and why.
        remarks: What else is to be said.
    """

    setting: Setting
    anchor: Box
    lam: float
    images: tuple[Tensor | None, Tensor | None]
    shown: Outcome | None
    code: str
    errors: tuple[str, ...]
    remarks: tuple[str, ...]


def answer(controls: Controls, model: PageModel) -> Answer:
    """Work out what the page shows; what is wrong with an image or the box is said, not raised.

    Args:
        controls: What was chosen.
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
    shown, code, remarks = None, "", (remark,) if missing else ()
    if own is not None and partner is not None:
        shown = show(setting, own, partner, model)
        code, remarks = write_code(setting, *filter(None, files), model=model), shown.remarks
    return Answer(setting, anchor, ratio, (own, partner), shown, code, tuple(errors), remarks)


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
    """Read an image as the model takes it; what is wrong with it is added to the errors."""
    if path is None:
        return None
    try:
        return model.loaded.preprocessing.crop(read_picture(path, model.loaded.preprocessing.grey))
    except DataError as error:
        errors.append(f"{error}.")
        return None
