"""Compute what the page shows from the values of its controls: read images, find the box, run the model, label."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from transmix.app.code import write_code
from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.picture import read_picture
from transmix.app.values import Outcome, Setting, box_within, scaled_box, show, sides_of
from transmix.data.dataset import DataError
from transmix.mixing.box import Box, box_area
from transmix.visual.html import png_uri


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
        images: A and B cropped for the model, (3, H, W) uint8; None for a missing image.
        shown: Result of mixing; None unless both images are given.
        code: Python that reproduces `shown`; None if `shown` is None.
        errors: Error messages.
        remarks: Other notes for the user.
    """

    setting: Setting
    anchor: Box
    lam: float
    images: tuple[Tensor | None, Tensor | None]
    shown: Outcome | None = None
    code: str = ""
    errors: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def stage(self, size: tuple[int, int], turn: int = 0) -> dict[str, Any]:
        """Return what stage.js draws, but for the pictures; `turn` is that of what was asked."""
        (height, width), box, blend, lam = size, list(self.setting.box), self.setting.blend, self.setting.lam
        return {"height": height, "width": width, "box": box, "blend": blend, "lam": lam, "turn": turn}

    def pictures(self) -> list[str]:
        """Return images A and B as stage.js draws them; none unless both are there."""
        given = [image for image in self.images if image is not None]
        return [png_uri(image.permute(1, 2, 0).numpy()) for image in given] if len(given) == 2 else []


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
    own, partner = (_image(path, model, errors) for path in (controls.own, controls.partner))
    if own is None or partner is None or controls.own is None or controls.partner is None:
        given = zip(("image A", "image B"), (controls.own, controls.partner), strict=True)
        missing = " and ".join(name for name, path in given if not path)
        remarks = (f"There is no {missing} yet: drop a file on its field, or use the example photographs.",)
        return Answer(setting, anchor, ratio, (own, partner), None, "", tuple(errors), remarks if missing else ())
    shown = show(setting, own, partner, model)
    code = write_code(setting, controls.own, controls.partner, model)
    return Answer(setting, anchor, ratio, (own, partner), shown, code, tuple(errors), shown.remarks)


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
    heads = model.heads.get(layer if layer != LAST else max(model.heads, default=LAST), 0)
    head = controls.head if controls.head < heads else MEAN
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
