"""Python code that reproduces the page: public functions, the same images, the same numbers."""

from pathlib import Path

from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.parts import TEMPLATES
from transmix.app.picture import is_sample
from transmix.app.values import Setting
from transmix.data.grey import Grey


def write_code(setting: Setting, own: Path, partner: Path, model: PageModel) -> str:
    """Write a program that prints the shares that the page shows.

    Args:
        setting: Setting of the controls.
        own: File of image A.
        partner: File of image B.
        model: The model.
    """
    grey, mean = model.loaded.preprocessing.grey, setting.head == MEAN
    return TEMPLATES.get_template("code.jinja").render(
        setting=setting,
        model=model,
        device=repr(str(model.device)),
        own=_image(own, grey),
        partner=_image(partner, grey),
        given=not (is_sample(own) and is_sample(partner)),  # whether one of the files is the app's own copy
        reader=setting.layer == LAST and mean,
        layer=max(model.heads, default=LAST) if setting.layer == LAST else setting.layer,
        head=".mean(1)[:, 0" if mean else f"[:, {setting.head}, 0",
        what="the mean over the heads" if mean else f"head {setting.head}",
    )


def _image(path: Path, grey: Grey) -> str:
    """Return the expression that reads an image."""
    if is_sample(path):
        return f"load_sample_image({path.name!r})"
    return f"decode_image({str(path)!r}, {path.name!r}{'' if grey is None else f', {grey!r}'})"
