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
from transmix.app.values import Answer, Controls, answer, sides_of
from transmix.data.dataset import DataError
from transmix.visual.html import png_uri

SIDES = ("top", "left", "tall", "wide")
ASKED = ("stage", "own", "partner", "anchor", "method", "ratio", *SIDES, "rule", "layer", "head", "downsample")
"""The components that hold what was chosen."""

BOX_MOVED = ("stage", "typing", "leaving")

log = logging.getLogger("transmix.app")


HOW: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",  # while an answer is on its way, of all that happens only the last is asked
    "concurrency_id": "answer",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
"""How every event is listened to."""


def connect(page: gr.Blocks, parts: Mapping[str, Any], model: PageModel) -> None:
    """Connect the components of a page, by name, to their event handlers."""
    inputs = {parts[name] for name in ASKED}
    outputs = [part for name, part in parts.items() if name not in ("swap", "examples")]

    def respond(held: Mapping[Any, Any], moved: str, refused: str = "", **changes: Any) -> dict[Any, Any]:
        """Compute the answer for the components' values with `changes` applied, and update the components."""
        values = {name: held[parts[name]] for name in ASKED} | changes
        try:
            found = answer(controls_of(values, moved), model)
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

    on(parts["stage"].input, "stage", lambda held: dict(zip(SIDES, sides_of(held[parts["stage"]]["box"]), strict=True)))
    on(parts["ratio"].input, "ratio")
    for side in SIDES:
        on(parts[side].input, "typing")
        on(parts[side].submit, "leaving")
        on(parts[side].blur, "leaving")
    for name in ("method", "rule", "layer", "head", "downsample"):
        on(parts[name].input, name)
    for name in ("own", "partner"):
        on_upload(name)
        on(parts[f"{name}_field"].clear, "images", lambda _, name=name: {name: None})
    on(parts["swap"].click, "images", lambda held: {"own": held[parts["partner"]], "partner": held[parts["own"]]})
    on(
        parts["examples"].click,
        "images",
        lambda _: {"own": str(sample(SAMPLES[0])), "partner": str(sample(SAMPLES[1]))},
    )
    on(page.load, "images")


def controls_of(values: Mapping[str, Any], moved: str) -> Controls:
    """Make `Controls` from the components' values, by name."""
    own, partner = (Path(values[name]) if values[name] else None for name in ("own", "partner"))
    box, blend = tuple(values[side] for side in SIDES), values["method"] == "mixup"
    chosen = values["rule"], int(values["layer"]), int(values["head"]), values["downsample"]
    moved = "box" if moved in BOX_MOVED else moved
    return Controls(own, partner, box, tuple(values["anchor"]), values["ratio"], blend, *chosen, moved)


def read(found: Answer, model: PageModel, refused: str = "") -> dict[str, Any]:
    """Return the texts and pictures of an answer, by component."""
    errors = [*([refused] if refused else []), *found.errors]
    written = {"remarks": remarks_part(errors, found.remarks)}
    if found.shown is None:
        return written | {"code": ""} | dict.fromkeys(("attention", "shares", "classes"), NOTHING)
    return written | {
        "code": write_code(found.setting, *filter(None, found.files), model=model),
        "attention": attention_part(found.shown, found.setting),
        "shares": shares_part(found.shown, found.setting, model.weights["trained"]),
        "classes": classes_part(found.shown, model.classes),
    }


def in_step(found: Answer, model: PageModel, moved: str, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return new values for controls whose value an answer changed.

    Fields that the user has edited since then, and the control that the user is moving, are not changed.
    """
    changed: dict[str, Any] = {"anchor": found.anchor}
    if moved != "stage":
        pictures: dict[str, Any] = {}
        if moved == "images":
            given = [png_uri(image.permute(1, 2, 0).numpy()) for image in found.images if image is not None]
            pictures["pictures"] = given if len(given) == 2 else []
        size, drawn = dict(zip(("height", "width"), model.size, strict=True)), found.setting
        turn = held["stage"]["turn"] if held["stage"] else 0
        stage = size | {"box": list(drawn.box), "blend": drawn.blend, "lam": drawn.lam, "turn": turn}
        changed["stage"] = gr.HTML(stage, **pictures)
    if moved != "ratio" and held["ratio"] != round(found.lam, 2):
        changed["ratio"] = round(found.lam, 2)
    for side, value in zip(SIDES, sides_of(found.setting.box), strict=True):
        if moved == "method":
            changed[side] = gr.Number(value, interactive=not found.setting.blend)
        elif moved != "typing" and held[side] != value:
            changed[side] = value
    if moved == "layer":
        changed["head"] = gr.Dropdown(head_choices(model, found.setting.layer), value=found.setting.head)
    if moved == "images":
        changed["own_field"], changed["partner_field"] = map(field_part, found.images, "AB")
    return changed


def head_choices(model: PageModel, layer: int) -> list[tuple[str, int]]:
    """Return the choices for the heads of a layer: (label, value)."""
    return [("mean", MEAN), *((str(head), head) for head in range(model.heads.get(model.number_of(layer), 0)))]
