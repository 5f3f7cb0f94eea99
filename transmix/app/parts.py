"""Pieces of the page as HTML: the shares of the label, the attention, the classes, remarks. All text is escaped."""

from collections.abc import Sequence
from html import escape

from torch import Tensor

from transmix.app.picture import picture_uri
from transmix.app.values import LAST, MEAN, Setting, Shown, percents
from transmix.mixing.box import Box
from transmix.visual.overlay import as_array, as_picture, attention_overlay

RULES = {"area": "CutMix", "attention": "alone", "trained": "mean of both"}

NOTHING = '<p class="tm-empty">Give both images to see it.</p>'


def shares_part(shown: Shown, setting: Setting) -> str:
    """Write the label by the chosen rule, and the shares of A and B by every rule, in numbers and bars."""
    own, partner = percents(shown.lam[setting.rule])
    said = "as trained" if setting.rule == "trained" else f"by {setting.rule}"
    rows = "".join(_share_row(rule, lam, rule == setting.rule) for rule, lam in shown.lam.items())
    return f"""
<dl class="tm-label">
  <div><dt><i class="tm-own"></i>A’s share</dt><dd id="share-own">{own:.1f}<small> %</small></dd></div>
  <div><dt><i class="tm-partner"></i>B’s share</dt><dd id="share-partner">{partner:.1f}<small> %</small></dd></div>
</dl>
<p>Label {said}: <b id="label">{shown.lam[setting.rule]:.3f} · A + {1 - shown.lam[setting.rule]:.3f} · B</b>.
The first number is <i>lam</i>, the weight of image A’s own label.</p>
<table class="tm-shares">
<caption class="tm-hidden">Shares of the label by every rule</caption>
<thead><tr><th scope="col">rule</th><th scope="col">A</th><td></td><th scope="col">B</th></tr></thead>
<tbody>{rows}</tbody>
</table>"""


def _share_row(rule: str, lam: float, chosen: bool) -> str:
    own, partner = percents(lam)
    mark = ' class="tm-chosen" aria-current="true"' if chosen else ""
    bar = f'<span class="tm-bar" aria-hidden="true"><span style="width:{own}%"></span></span>'
    return (
        f'<tr{mark} data-rule="{rule}"><th scope="row">{rule}<small>{RULES[rule]}</small></th>'
        f"<td>{own:.1f} %</td><td>{bar}</td><td>{partner:.1f} %</td></tr>"
    )


def attention_part(shown: Shown, setting: Setting, size: tuple[int, int]) -> str:
    """Write the picture of the attention over the mixed image, with the box around B's pixels."""
    picture = attention_overlay(as_picture(shown.mixed), as_array(shown.attention), shown.grid)
    h, w = shown.grid
    layer = "the last layer" if setting.layer == LAST else f"layer {setting.layer}"
    head = "mean over the heads" if setting.head == MEAN else f"head {setting.head}"
    outline = "" if setting.blend else f'<span class="tm-outline" style="{_place(setting.box, size)}"></span>'
    alt = "What the class token looks at in the mixed image"
    return f"""
<div class="tm-frame" style="aspect-ratio:{size[1]}/{size[0]}">
  <img class="{_pixelated(size)}" src="{picture_uri(picture)}" alt="{alt}">{outline}
</div>
<p class="tm-small">Class token, {layer}, {head}, {h} × {w} patches. <span class="tm-scale" aria-hidden="true"></span>
from none to {shown.attention.max():.1%}, the most that one patch gets.</p>"""


def classes_part(shown: Shown, names: Sequence[str] | None) -> str:
    """Write which classes the model finds most likely in the mixed image."""
    rows = "".join(
        f"<li><span>{escape(names[number]) if names else f'class {number}'}</span><b>{probability:.1%}</b>"
        f'<span class="tm-bar tm-plain" aria-hidden="true"><span style="width:{probability:.1%}"></span></span></li>'
        for number, probability in shown.classes
    )
    return f'<ol class="tm-classes">{rows}</ol>'


def field_part(image: Tensor | None, letter: str) -> str:
    """Write an image as the model takes it."""
    if image is None:
        return "none yet"
    height, width = image.shape[1:]
    picture = picture_uri(image.permute(1, 2, 0).numpy())
    return f'<img class="{_pixelated((height, width))}" src="{picture}" alt="Image {letter} as the model takes it">'


def remarks_part(errors: Sequence[str], remarks: Sequence[str]) -> str:
    """Write what went wrong, and what is odd."""
    return "".join(
        f'<p class="tm-note tm-{kind}">{escape(text)}</p>'
        for kind, texts in (("error", errors), ("remark", remarks))
        for text in texts
    )


def _place(box: Box, size: tuple[int, int]) -> str:
    top, left, bottom, right = box
    height, width = size
    return (
        f"top:{100 * top / height}%;left:{100 * left / width}%;"
        f"height:{100 * (bottom - top) / height}%;width:{100 * (right - left) / width}%"
    )


def _pixelated(size: tuple[int, int]) -> str:
    """Return the class of pictures so small that a browser would blur them when it enlarges them."""
    return "tm-pixels" if max(size) < 150 else ""
