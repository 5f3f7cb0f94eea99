"""The page: Gradio's controls around a picture with a box; `events` says what happens when they are used."""

from pathlib import Path
from typing import Any

import gradio as gr

from transmix.app.events import connect, first_images, head_choices
from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.parts import NOTHING, piece
from transmix.app.picture import LARGEST_FILE

HERE = Path(__file__).parent
SIDES = (("top", "Top"), ("left", "Left"), ("tall", "Height"), ("wide", "Width"))


def build_page(model: PageModel) -> gr.Blocks:
    """Make the page of a model."""
    parts: dict[str, Any] = {}
    with gr.Blocks(title=f"transmix: {model.loaded.target}", analytics_enabled=False) as page:
        gr.HTML(piece("head", model))
        with gr.Row(equal_height=False, elem_classes="tm-row"):
            _pictures(parts)
        status = '<div role="status">${value}</div>'  # below the pictures, which must not move under a pointer
        parts["remarks"] = gr.HTML("", html_template=status, js_on_load=None, elem_id="remarks")
        with gr.Row(equal_height=False, elem_classes="tm-row"):
            _images(parts, model)
            _mixing(parts, model)
            _weighing(parts, model)
        gr.HTML('<h2 class="tm">The Python that gives these numbers</h2>', elem_id="code-head")
        parts["code"] = gr.Code(
            language="python", label="Python", elem_id="code", show_line_numbers=False, buttons=["copy"]
        )
        connect(page, parts, model)
    return page


def _pictures(parts: dict[str, Any]) -> None:
    """Lay out the mixed image, the attention, and the label."""
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Mixed image</h2>')
        script, template = (HERE / "stage.js").read_text(encoding="utf-8"), piece("stage", SIDES)
        parts["stage"] = gr.HTML(None, html_template=template, js_on_load=script, elem_id="stage", pictures=[])
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Where the model looks</h2>')
        parts["attention"] = gr.HTML(NOTHING, elem_id="attention")
        gr.HTML('<h2 class="tm tm-later">What the model says</h2>')
        parts["classes"] = gr.HTML(NOTHING, elem_id="classes")
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Label</h2>')
        parts["shares"] = gr.HTML(NOTHING, elem_id="shares")


def _images(parts: dict[str, Any], model: PageModel) -> None:
    """Lay out the fields for both images; "own" and "partner" hold paths or numbers of validation images."""
    script = (HERE / "drop.js").read_text(encoding="utf-8").replace("LARGEST", str(LARGEST_FILE))
    parts["pair"] = gr.State(0)
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Images</h2>')
        for name, letter, first in zip(("own", "partner"), "ab", first_images(model, 0), strict=True):
            template, where = piece("drop", letter.upper()), f"image-{letter}"
            field = gr.HTML("", html_template=template, js_on_load=script, elem_id=where, about="")
            parts[f"{name}_field"] = field
            parts[name] = gr.State(first)
        with gr.Row(elem_classes="tm-buttons"):
            if model.pair(0) is not None:
                parts["another"] = gr.Button("Another pair", size="sm", min_width=100, variant="primary")
            parts["swap"] = gr.Button("Swap A and B", size="sm", min_width=100)
            parts["examples"] = gr.Button("Example photographs", size="sm", min_width=100)
        gr.HTML(piece("credit", model.pair(0) is not None))


def _mixing(parts: dict[str, Any], model: PageModel) -> None:
    """Lay out how the images are mixed; the box and the ratio stand below the picture."""
    parts["seed"] = gr.State(0)
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Mixing</h2>')
        methods = list(dict.fromkeys(("cutmix", "mixup", *model.methods)))
        about: dict[str, Any] = {
            "label": "Method",
            "info": "Of CutMix the box is yours, of Mixup the ratio; others draw at random.",
        }
        parts["method"] = gr.Dropdown(methods, value="cutmix", elem_id="method", **about)
        parts["again"] = gr.Button("Draw again", size="sm", interactive=False)
        gr.HTML(piece("not_served", model.no_methods))


def _weighing(parts: dict[str, Any], model: PageModel) -> None:
    """Lay out whose attention counts, and for what."""
    layers = [("last", LAST), *((str(number), number) for number in sorted(model.heads)[:-1])]
    downs = [("nearest, as published", "nearest"), ("fraction of each patch", "fraction")]
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Attention and label</h2>')
        served = [name for name in model.rules if name not in model.no_rules]
        parts["rule"] = gr.Radio(served, value="trained", label="Rule", elem_id="rule")
        with gr.Row():
            parts["layer"] = gr.Dropdown(layers, value=LAST, label="Layer", min_width=100, elem_id="layer")
            heads = head_choices(model, LAST)
            parts["head"] = gr.Dropdown(heads, value=MEAN, label="Head", min_width=100, elem_id="head")
        value = getattr(model.rules["trained"], "downsample", "nearest")
        parts["downsample"] = gr.Radio(downs, value=value, label="Box on patches", elem_id="downsample")
