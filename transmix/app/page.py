"""The page: Gradio's controls around a picture with a box; `events` says what happens when they are used."""

from pathlib import Path
from typing import Any

import gradio as gr

from transmix.app.events import SIDES, connect, head_choices
from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.parts import NOTHING, piece
from transmix.app.picture import LARGEST_FILE, SAMPLES, sample
from transmix.app.values import sides_of
from transmix.mixing.box import Box

HERE = Path(__file__).parent


def build_page(model: PageModel) -> gr.Blocks:
    """Make the page of a model."""
    height, width = model.size
    first = (height // 4, width // 4, height // 4 + height // 2, width // 4 + width // 2)
    parts: dict[str, Any] = {}
    with gr.Blocks(title=f"transmix: {model.loaded.target}", analytics_enabled=False) as page:
        gr.HTML(piece("head", model))
        with gr.Row(equal_height=False, elem_classes="tm-row"):
            _pictures(parts)
        status = '<div role="status">${value}</div>'  # below the pictures, which must not move under a pointer
        parts["remarks"] = gr.HTML("", html_template=status, js_on_load=None, elem_id="remarks")
        with gr.Row(equal_height=False, elem_classes="tm-row"):
            _images(parts)
            _mixing(parts, first)
            _weighing(parts, model)
        gr.HTML('<h2 class="tm">The Python that gives these numbers</h2>', elem_id="code-head")
        parts["code"] = gr.Code(
            language="python", label="Python", elem_id="code", show_line_numbers=False, buttons=["copy"]
        )
        parts["anchor"] = gr.State(first)
        connect(page, parts, model)
    return page


def _pictures(parts: dict[str, Any]) -> None:
    """Lay out the mixed image, the attention, and the label."""
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Mixed image</h2>')
        script = (HERE / "stage.js").read_text(encoding="utf-8")
        parts["stage"] = gr.HTML(None, html_template=piece("stage"), js_on_load=script, elem_id="stage", pictures=[])
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Where the model looks</h2>')
        parts["attention"] = gr.HTML(NOTHING, elem_id="attention")
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Label</h2>')
        parts["shares"] = gr.HTML(NOTHING, elem_id="shares")
        gr.HTML('<h2 class="tm tm-later">What the model says</h2>')
        parts["classes"] = gr.HTML(NOTHING, elem_id="classes")


def _images(parts: dict[str, Any]) -> None:
    """Lay out the fields for both images; "own" and "partner" hold the paths of their files."""
    script = (HERE / "drop.js").read_text(encoding="utf-8").replace("LARGEST", str(LARGEST_FILE))
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Images</h2>')
        for name, letter, file in (("own", "a", SAMPLES[0]), ("partner", "b", SAMPLES[1])):
            template = piece("drop", letter.upper())
            parts[f"{name}_field"] = gr.HTML("", html_template=template, js_on_load=script, elem_id=f"image-{letter}")
            parts[name] = gr.State(str(sample(file)))
        with gr.Row(elem_classes="tm-buttons"):
            parts["swap"] = gr.Button("Swap A and B", size="sm", min_width=100)
            parts["examples"] = gr.Button("Example photographs", size="sm", min_width=100)
        gr.HTML(piece("credit"))


def _mixing(parts: dict[str, Any], box: Box) -> None:
    """Lay out how the images are mixed."""
    sides = zip(SIDES, ("Top", "Left", "Height", "Width"), sides_of(box), strict=True)
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Mixing</h2>')
        methods = [("CutMix: paste a box", "cutmix"), ("Mixup: blend", "mixup")]
        parts["method"] = gr.Radio(methods, value="cutmix", label="Method", elem_id="method")
        about: dict[str, Any] = {"label": "Mixing ratio, lam", "info": "The part of the picture that is A’s."}
        parts["ratio"] = gr.Slider(0, 1, 0.75, step=0.01, elem_id="ratio", buttons=[], **about)
        with gr.Row(elem_classes="tm-sides"):
            for name, label, value in sides:  # no limits: Gradio's complaint would keep ours from being made
                parts[name] = gr.Number(value, label=label, precision=0, min_width=70, elem_id=f"box-{name}")


def _weighing(parts: dict[str, Any], model: PageModel) -> None:
    """Lay out whose attention counts, and for what."""
    layers = [("last", LAST), *((str(number), number) for number in sorted(model.heads)[:-1])]
    downs = [("nearest, as published", "nearest"), ("fraction of each patch", "fraction")]
    with gr.Column(min_width=280):
        gr.HTML('<h2 class="tm">Attention and label</h2>')
        parts["rule"] = gr.Radio(list(model.weights), value="trained", label="Rule", elem_id="rule")
        with gr.Row():
            parts["layer"] = gr.Dropdown(layers, value=LAST, label="Layer", min_width=100, elem_id="layer")
            heads = head_choices(model, LAST)
            parts["head"] = gr.Dropdown(heads, value=MEAN, label="Head", min_width=100, elem_id="head")
        parts["downsample"] = gr.Radio(downs, value="nearest", label="Box on patches", elem_id="downsample")
