"""Pieces of the page, as HTML in which all text is escaped; and the Python that gives the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import escape
from torch import Tensor

from transmix.app.model import LAST, MEAN, Image, PageModel
from transmix.app.picture import is_sample
from transmix.app.values import Outcome, Setting, class_names, percents
from transmix.data.grey import Grey
from transmix.mixing.mixer import looks_at
from transmix.visual.attention import attention_figure
from transmix.visual.html import inline_svg, png_uri
from transmix.visual.labels import why_not
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


def shares_part(outcome: Outcome, setting: Setting, model: PageModel, names: tuple[str, str]) -> str:
    """Write the label by the chosen rule, and the weights of both classes by every rule, in numbers and bars.

    Args:
        outcome: Result of mixing.
        setting: Setting of the controls.
        model: The model.
        names: Of both classes.
    """
    rows = []
    for name in model.rules:
        one = outcome.labels.get(name)
        bar = 0.0 if one is None else 100 * one.own / max(sum(one), 1e-12)
        rows.append((name, model.notes[name], one and percents(one), bar, outcome.reasons.get(name)))
    chosen = outcome.labels.get(setting.rule)
    return piece("shares", rows, setting.rule, chosen, chosen and percents(chosen), names)


def attention_part(outcome: Outcome, setting: Setting) -> str:
    """Write the picture of the attention over the mixed image, with the outline of B's pixels."""
    layer = "the last layer" if setting.layer == LAST else f"layer {setting.layer}"
    head = "mean over the heads" if setting.head == MEAN else f"head {setting.head}"
    mask = None if outcome.mask is None else outcome.mask.numpy() >= 0.5
    figure = attention_figure(outcome.mixed, outcome.attention, outcome.grid, mask, width=ON_PAGE)
    svg = inline_svg(figure, "What the class token looks at in the mixed image")
    patches = len(outcome.attention)
    even = (patches + 1) // 2
    highest = multiples(outcome.attention.numpy()).max()
    shares = [f"{count} of {patches} patches ({count / patches:.0%})" for count in (outcome.half, even)]
    return piece("attention", svg, layer, head, highest, shares)


def classes_part(outcome: Outcome, names: Sequence[str] | None) -> str:
    """Write the most likely classes of the mixed image."""
    found = outcome.classes
    return piece("classes", [(names[one] if names else f"class {one}", f"{share:.1%}") for one, share in found])


def field_part(image: Tensor | None, letter: str, name: str) -> tuple[str, str]:
    """Write an image as the model takes it, and the name of its class or file."""
    if image is None:
        return "none yet", ""
    small = max(image.shape[1:]) < 150  # a browser would blur it when it enlarges it
    return piece("field", png_uri(image.permute(1, 2, 0).numpy()), small, letter), str(escape(name))


def remarks_part(errors: Sequence[str], remarks: Sequence[str]) -> str:
    """Write errors and notes."""
    return piece("remarks", [("error", text) for text in errors] + [("remark", text) for text in remarks])


def write_code(setting: Setting, own: Image, partner: Image, model: PageModel) -> str:
    """Write a program that prints the labels that the page shows.

    Args:
        setting: Setting of the controls.
        own: Image A.
        partner: Image B.
        model: The model.
    """
    files = [one for one in (own, partner) if isinstance(one, Path)]
    names = class_names((own, partner), model)
    classes = model.label(own), model.label(partner)
    chosen = dict.fromkeys(("area", "attention", "trained", setting.rule))
    known, no_masks = None not in classes, model.foreground((own, partner))[1]
    rules = {
        name: setting.rule_of(name, model)
        for name in chosen
        if name not in model.no_rules and not why_not(model.rules[name], known, no_masks)
    }
    method = None if setting.method in ("cutmix", "mixup") else model.methods[setting.method]
    mean = setting.head == MEAN
    return TEMPLATES.get_template("code.jinja").render(
        setting=setting,
        model=model,
        device=str(model.device),
        loads=model.code(with_data=len(files) < 2),
        with_data=len(files) < 2,
        numbers=(own, partner),
        images=[_reads(one, model.loaded.preprocessing.grey) for one in (own, partner)],
        given=not all(map(is_sample, files)),  # whether one of the files is the app's own copy
        classes=list(classes) if known else [0, 1],
        names=names,
        method=method,
        looks=looks_at(method),
        rules=rules,
        kinds={type(one) for one in (*rules.values(), method) if one is not None},
        needs={need for rule in rules.values() for need in rule.needs},
        reader=setting.layer == LAST and mean,
        layer=model.number_of(setting.layer),
        head=".mean(1)[:, 0" if mean else f"[:, {setting.head}, 0",
        what="the mean over the heads" if mean else f"head {setting.head}",
    )


def _reads(one: Image, grey: Grey) -> str:
    """Return the expression that reads an image."""
    if isinstance(one, int):
        return f"data.val.image({one})"
    if is_sample(one):
        return f"load_sample_image({one.name!r})"
    return f"decode_image({str(one)!r}, {one.name!r}{'' if grey is None else f', {grey!r}'})"
