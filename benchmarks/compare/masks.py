"""Figures about masks in Markdown: labels against what is visible, and boxes of background."""

from collections.abc import Sequence
from typing import Any

from shown import cell, origin, table

from transmix.runs.weights import NAMES

RULES = {
    "area": "area (CutMix)",
    "line": "line in the area",
    "centre": "prior at the centre",
    "mean_map": "the model's mean map",
    "attention": "attention alone",
    "attention_fraction": "attention alone, box by covered fraction",
    "attention_shifted": "attention alone, covered fraction of the box moved",
    "mean": "area and attention (TransMix)",
    "mean_fraction": "TransMix, box by covered fraction",
    "mean_shifted": "TransMix, box moved to where tokens look",
    "progressive": "attention and area by the prediction (MixPro)",
    "clean_view": "clean view of each source",
    "clean_view_mean": "area and clean view",
    "clean_view_centre": "clean view and prior at the centre",
}
"""How rules are called, in the order in which they are shown: those that look at nothing first."""

COLUMNS = {
    "error": "error",
    "error_in_training": "in training crops",
    "ghost_error": "where one is a ghost",
    "image_specific": "specific to the images",
}
BOXES = {"empty": "background alone", "in between": "in between", "on object": "on the object"}


def label_truth(name: str, found: dict[str, Any]) -> str:
    """Show how far mixed labels are from what is visible, after the last epoch, by rule."""
    last = max((one["epoch"] or 0) for one in found["truth"])
    parts = [
        f"## Label truth: {name.removeprefix('label_truth_').removesuffix('.json')}\n\n",
        "How far a mixed label is from the share of the visible foreground that each image has, over "
        f"{found['settings']['pairs']} pairs of validation images with a box, by {found['settings']['by']}: mean "
        "absolute error in the evaluation crop and in training crops; where less than a tenth of one object is "
        "visible; and the correlation with what is specific to the images, beyond what the box says, which is 0 for "
        "a rule that looks at nothing. The first four rules look at no image. In brackets 95 % intervals over "
        f"boxes. Run: `{found['model']}`.\n\n",
    ]
    for one in found["truth"]:
        if (one["epoch"] or 0) == last:
            names = [rule for rule in RULES if rule in one["rules"]]
            lines = [
                [
                    RULES[rule],
                    *(_spread(one["rules"][rule][key]) if key in one["rules"][rule] else "" for key in COLUMNS),
                ]
                for rule in names
            ]
            epoch = f", epoch {last}" if last else ""
            parts += [table([f"{_weights(one['model'])}{epoch}", *COLUMNS.values()], lines), "\n"]
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
                RULES.get(row["rule"], cell(row["rule"])),
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


def _weights(name: str) -> str:
    return NAMES.get(name, cell(name))


def _spread(value: Sequence[float], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    mean, low, high = (f"{one:{form}}".replace("-", "−") for one in value)
    return f"{mean} ({low} to {high})"


def _origin(name: str, found: dict[str, Any]) -> str:
    about = {**found, "packages": found["versions"]}
    return origin(name, found["command"], [about], [found["settings"]["seed"]])
