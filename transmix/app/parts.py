"""Pieces of the page, as HTML in which all text is escaped; and the Python that gives the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from torch import Tensor

from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.picture import is_sample
from transmix.app.values import Outcome, Setting, percents
from transmix.data.grey import Grey
from transmix.visual.attention import attention_figure
from transmix.visual.html import inline_svg, png_uri
from transmix.visual.overlay import multiples
from transmix.visual.palette import ON_PAGE

NOTHING = '<p class="tm-empty">Give both images to see it.</p>'

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def piece(name: str, *values: Any) -> str:
    """Return the HTML of one macro of parts.html."""
    return str(getattr(TEMPLATES.get_template("parts.html").module, name)(*values))


def shares_part(outcome: Outcome, setting: Setting, weight: float) -> str:
    """Write the label by the chosen rule, and the shares of A and B by every rule, in numbers and bars.

    Args:
        outcome: Result of mixing.
        setting: Setting of the controls.
        weight: Weight of attention in the trained label.
    """
    notes = {"area": "CutMix", "attention": "alone", "trained": f"{weight:.0%} attention"}
    shares = {rule: percents(lam) for rule, lam in outcome.lam.items()}
    return piece("shares", outcome.lam, shares, setting.rule, notes)


def attention_part(outcome: Outcome, setting: Setting) -> str:
    """Write the picture of the attention over the mixed image, with the box around B's pixels."""
    layer = "the last layer" if setting.layer == LAST else f"layer {setting.layer}"
    head = "mean over the heads" if setting.head == MEAN else f"head {setting.head}"
    mask = None if outcome.mask is None else outcome.mask.numpy()
    figure = attention_figure(outcome.mixed, outcome.attention, outcome.grid, mask, width=ON_PAGE)
    svg = inline_svg(figure, "What the class token looks at in the mixed image")
    return piece("attention", svg, layer, head, outcome.grid, multiples(outcome.attention.numpy()).max())


def classes_part(outcome: Outcome, names: Sequence[str] | None) -> str:
    """Write the most likely classes of the mixed image."""
    found = outcome.classes
    return piece("classes", [(names[one] if names else f"class {one}", f"{share:.1%}") for one, share in found])


def field_part(image: Tensor | None, letter: str) -> str:
    """Write an image as the model takes it."""
    if image is None:
        return "none yet"
    small = max(image.shape[1:]) < 150  # a browser would blur it when it enlarges it
    return piece("field", png_uri(image.permute(1, 2, 0).numpy()), small, letter)


def remarks_part(errors: Sequence[str], remarks: Sequence[str]) -> str:
    """Write errors and notes."""
    return piece("remarks", [("error", text) for text in errors] + [("remark", text) for text in remarks])


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
        own=_reads(own, grey),
        partner=_reads(partner, grey),
        given=not (is_sample(own) and is_sample(partner)),  # whether one of the files is the app's own copy
        reader=setting.layer == LAST and mean,
        layer=model.number_of(setting.layer),
        head=".mean(1)[:, 0" if mean else f"[:, {setting.head}, 0",
        what="the mean over the heads" if mean else f"head {setting.head}",
    )


def _reads(path: Path, grey: Grey) -> str:
    """Return the expression that reads an image."""
    if is_sample(path):
        return f"load_sample_image({path.name!r})"
    return f"decode_image({str(path)!r}, {path.name!r}{'' if grey is None else f', {grey!r}'})"
