"""Figures about masks in Markdown: labels against what is visible, and boxes of background."""

from collections.abc import Sequence
from typing import Any

from shown import cell, origin, table

from transmix.runs.weights import NAMES

RULES = {"area": "area (CutMix)", "attention": "attention alone", "mean": "mean of both (TransMix)"}
HOW = {"fraction": "box by covered fraction", "shifted": "covered fraction of the box moved"}
BOXES = {"empty": "background alone", "in between": "in between", "on object": "on the object"}


def label_truth(name: str, found: dict[str, Any]) -> str:
    """Show how far mixed labels are from what is visible, after the last epoch, by rule."""
    last = max(one["epoch"] for one in found["truth"])
    parts = [
        f"## Label truth: {name.removeprefix('label_truth_').removesuffix('.json')}\n\n",
        "How far a mixed label is from the share of the visible foreground that each image has, over "
        f"{found['settings']['pairs']} pairs of validation images with a box, by {found['settings']['by']}: mean "
        f"absolute error and rank correlation, with 95 % intervals. {_moved(found)}Run: `{found['model']}`.\n\n",
    ]
    for one in found["truth"]:
        if one["epoch"] == last:
            lines = [
                [
                    _rule(rule),
                    _spread(value["error"]),
                    _spread(value["error_over_area"], signed=True),
                    _spread(value["rank_correlation"]),
                ]
                for rule, value in one["rules"].items()
            ]
            heads = [f"{_weights(one['model'])}, epoch {last}", "error", "error over area's", "rank correlation"]
            parts += [table(heads, lines), "\n"]
    return "".join(parts) + _origin(name, found)


def empty_boxes(name: str, found: dict[str, Any]) -> str:
    """Show attention's share of boxes minus their area's, of background and on the object."""
    parts = [
        f"## Boxes of background: {name.removeprefix('empty_boxes_').removesuffix('.json')}\n\n",
        "Share of the attention inside a pasted box minus its share of the area, mean over "
        f"{found['settings']['boxes']} boxes on validation images, with 95 % intervals; on the object: at least "
        f"{found['settings']['on']:.0%} of it is in the box. {_moved(found)}Run: `{found['model']}`.\n\n",
    ]
    for model, rows in found["models"].items():
        lines = [
            [
                _rule(row["rule"]),
                BOXES.get(row["box"], cell(row["box"])),
                row["boxes"],
                _spread([row["difference"], *row["interval"]], signed=True),
                f"{row['below_area']:.0%}",
            ]
            for row in rows
        ]
        parts += [table([_weights(model), "box", "boxes", "attention − area", "below its area"], lines), "\n"]
    return "".join(parts) + _origin(name, found)


def _moved(found: dict[str, Any]) -> str:
    shift = found["settings"].get("shift")
    if shift is None:
        return ""
    return (
        f"Once more with the box moved down and right by {shift} pixels, as a token sees it whose receptive field is "
        f"centred that much above and left of the middle of its patch. "
    )


def _rule(name: str) -> str:
    rule, _, how = name.partition("_")
    return RULES.get(rule, cell(rule)) + (f", {HOW.get(how, cell(how))}" if how else "")


def _weights(name: str) -> str:
    return NAMES.get(name, cell(name))


def _spread(value: Sequence[float], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    mean, low, high = (f"{one:{form}}".replace("-", "−") for one in value)
    return f"{mean} ({low} to {high})"


def _origin(name: str, found: dict[str, Any]) -> str:
    about = {**found, "packages": found["versions"]}
    return origin(name, found["command"], [about], [found["settings"]["seed"]])
