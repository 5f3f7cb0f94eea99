"""Event handlers of the page: one call of `answer` per change of a control, and its result to the components."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from transmix.app.model import MEAN, PageModel
from transmix.app.parts import NOTHING, attention_part, classes_part, field_part, remarks_part, shares_part, write_code
from transmix.app.picture import SAMPLES, received, sample
from transmix.app.values import Answer, Controls, answer
from transmix.data.dataset import DataError
from transmix.visual.html import png_uri

ASKED = ("stage", "own", "partner", "pair", "method", "seed", "rule", "layer", "head", "downsample")
"""The components that hold what was chosen."""

log = logging.getLogger("transmix.app")


HOW: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",  # while an answer is on its way, of all that happens only the last is asked
    "concurrency_id": "answer",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
"""How every event is listened to. One answer at a time, in the order of the questions: the last question wins. The
numbers that are typed or dragged are one component, which leaves out answers to its older values."""


def connect(page: gr.Blocks, parts: Mapping[str, Any], model: PageModel) -> None:
    """Connect the components of a page, by name, to their event handlers."""
    inputs = {parts[name] for name in ASKED}
    outputs = [part for name, part in parts.items() if name not in ("swap", "examples", "another")]

    def respond(held: Mapping[Any, Any], moved: str, refused: str = "", **changes: Any) -> dict[Any, Any]:
        """Compute the answer for the components' values with `changes` applied, and update the components."""
        values = {name: held[parts[name]] for name in ASKED} | changes
        try:
            found = answer(controls_of(values, moved, model), model)
            written = changes | read(found, model, refused) | in_step(found, model, moved, values)
        except Exception as error:  # whatever goes wrong, the page says so in a sentence
            log.exception("the page could not answer")
            said = f"That went wrong: {type(error).__name__}: {error}. The terminal has the details."
            written = {"remarks": remarks_part([said], [])}
        return {parts[name]: value for name, value in written.items()}

    def on(event: Callable, moved: str, changes: Callable[[dict[Any, Any]], dict[str, Any]] = lambda held: {}) -> None:
        event(lambda held: respond(held, moved, **changes(held)), inputs, outputs, **HOW)

    def on_upload(name: str) -> None:
        def give(held: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            try:
                path = received(event._data, Path(get_upload_folder()), model.loaded.preprocessing.grey)
            except DataError as error:
                return respond(held, "", refused=f"{error}.")
            return respond(held, "images", **{name: str(path)})

        # of what waits Gradio keeps the newest values but the oldest event, and the file comes with the event
        parts[f"{name}_field"].upload(give, inputs, outputs, **HOW | {"trigger_mode": "multiple"})

    def another(held: dict[Any, Any]) -> dict[str, Any]:
        number = held[parts["pair"]] + 1
        return {"pair": number, **dict(zip(("own", "partner"), first_images(model, number), strict=True))}

    on(parts["stage"].input, "stage")
    for name in ("method", "rule", "layer", "head", "downsample"):
        on(parts[name].input, name)
    on(parts["again"].click, "again", lambda held: {"seed": held[parts["seed"]] + 1})
    for name in ("own", "partner"):
        on_upload(name)
        on(parts[f"{name}_field"].clear, "images", lambda _, name=name: {name: None})
    on(parts["swap"].click, "images", lambda held: {"own": held[parts["partner"]], "partner": held[parts["own"]]})
    on(parts["examples"].click, "images", lambda _: dict(zip(("own", "partner"), samples(), strict=True)))
    if "another" in parts:
        on(parts["another"].click, "images", another)
    on(page.load, "images")


def samples() -> tuple[str, str]:
    """Return the paths of the example photographs."""
    return str(sample(SAMPLES[0])), str(sample(SAMPLES[1]))


def first_images(model: PageModel, number: int) -> tuple[str | int, str | int]:
    """Return the images of a pair, as "own" and "partner" hold them: of the validation split, else examples."""
    return model.pair(number) or samples()


def controls_of(values: Mapping[str, Any], moved: str, model: PageModel) -> Controls:
    """Make `Controls` from the components' values, by name."""
    own, partner = (Path(one) if isinstance(one, str) else one for one in (values["own"], values["partner"]))
    height, width = model.size
    first = (height // 4, width // 4, height // 4 + height // 2, width // 4 + width // 2)
    stage = values["stage"] or {"box": first, "anchor": first, "lam": 0.75, "moved": ""}
    chosen = values["rule"], int(values["layer"]), int(values["head"]), values["downsample"]
    how = tuple(stage["anchor"]), float(stage["lam"]), values["method"], int(values["seed"]), *chosen
    return Controls(own, partner, tuple(stage["box"]), *how, stage["moved"] if moved == "stage" else moved)


def read(found: Answer, model: PageModel, refused: str = "") -> dict[str, Any]:
    """Return the texts and pictures of an answer, by component."""
    errors = [*([refused] if refused else []), *found.errors]
    written = {"remarks": remarks_part(errors, found.remarks)}
    own, partner = found.given
    if found.shown is None or own is None or partner is None:
        return written | {"code": ""} | dict.fromkeys(("attention", "shares", "classes"), NOTHING)
    return written | {
        "code": write_code(found.setting, own, partner, model),
        "attention": attention_part(found.shown, found.setting),
        "shares": shares_part(found.shown, found.setting, model, found.names),
        "classes": classes_part(found.shown, model.classes),
    }


def in_step(found: Answer, model: PageModel, moved: str, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return new values for controls whose value an answer changed."""
    drawn, kind = found.setting, found.setting.method if found.setting.method in ("cutmix", "mixup") else "drawn"
    stage = dict(zip(("height", "width"), model.size, strict=True)) | {"kind": kind, "box": list(drawn.box)}
    stage |= {
        "anchor": list(found.anchor),
        "lam": found.lam,
        "moved": "",
        "turn": held["stage"]["turn"] if held["stage"] else 0,
    }
    changed: dict[str, Any] = {}
    pictures: dict[str, Any] = {}
    if moved in ("images", "method", "again"):
        given = [one for one in found.images if one is not None]
        given = [found.shown.mixed] * 2 if kind == "drawn" and found.shown else given
        pictures["pictures"] = [png_uri(one.permute(1, 2, 0).numpy()) for one in given] if len(given) == 2 else []
    changed["stage"] = gr.HTML(stage, **pictures)
    if moved == "method":
        changed["again"] = gr.Button(interactive=kind == "drawn")
    if moved == "layer":
        value: dict[str, Any] = {} if held["head"] == drawn.head else {"value": drawn.head}
        changed["head"] = gr.Dropdown(head_choices(model, drawn.layer), **value)
    if moved == "images":
        for part, image, letter, one, name in zip(
            ("own_field", "partner_field"), found.images, "AB", found.given, found.names, strict=True
        ):
            picture, about = field_part(image, letter, one.name if isinstance(one, Path) else name)
            changed[part] = gr.HTML(picture, about=about)
    return changed


def head_choices(model: PageModel, layer: int) -> list[tuple[str, int]]:
    """Return the choices for the heads of a layer: (label, value)."""
    return [("mean", MEAN), *((str(head), head) for head in range(model.heads.get(model.number_of(layer), 0)))]
