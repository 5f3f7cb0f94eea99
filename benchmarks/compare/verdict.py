"""The first screen of docs/results.md: what was measured, what it says, one table, and where to read on."""

import re
from collections.abc import Mapping
from typing import Any

from shown import cell, read_difference, table

from transmix.compare.statistics import Mean
from transmix.compare.text import interval, show_mean
from transmix.metrics import log_metrics

STEP = ("step_overhead_cpu.json", "deit_tiny_patch16_224 batch 16", "transmix")
"""File, case and variant of what a training step costs."""


def label_pairs(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the differences between two groups that saw the same mixed images, so that the label alone differs."""
    return [one for one in found["differences"] if "the label alone differs" in one["common"]]


def first_screen(files: Mapping[str, dict[str, Any]], sections: list[str]) -> str:
    """Write the first screen.

    Args:
        files: name -> content of the files that a section shows.
        sections: titles of the sections below, in order.
    """
    compared, truths = _comparisons(files), _truths(files)
    links = " · ".join(f"[{cell(one)}](#{anchor(one)})" for one in sections)
    return (
        _measured(compared, truths)
        + findings(files)
        + (f"\n{_table(compared)}" if any(map(label_pairs, compared.values())) else "")
        + f"\nOn this page: {links}.\n\n"
        "Every figure below stands with the command that made it, commit, seeds, machine and versions, and links to "
        "the file that holds it; what a file does not say is called “not recorded”. Negative results stay, with the "
        "reason.\n"
    )


def findings(files: Mapping[str, dict[str, Any]]) -> str:
    """Say in a list what the figures say; README.md shows it too."""
    compared = _comparisons(files)
    said = [_accuracy(compared), _truth(_truths(files)), _cost(files), _missing(compared)]
    return "".join(f"- {one}\n" for one in said if one)


def _comparisons(files: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: found for name, found in files.items() if found.get("kind") == "comparison"}


def _truths(files: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for found in files.values() if "truth" in found]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def _measured(compared: Mapping[str, dict[str, Any]], truths: list[dict[str, Any]]) -> str:
    """Say what was measured."""
    groups = [group for found in compared.values() for group in found["groups"]]
    runs = sum(len(group["seeds"]) for group in groups)
    trained = list(dict.fromkeys(_data(found) for found in compared.values()))
    parts = [
        f"{runs} trainings in {len(groups)} groups ({', '.join(trained)})" if runs else "",
        f"mixed labels against masks of the objects ({len(truths)} models)" if truths else "",
        "the time and memory of each part",
    ]
    return f"\n**Measured** so far: {'; '.join(filter(None, parts))}. What the figures say:\n\n"


def _data(found: dict[str, Any]) -> str:
    return cell(str(found["groups"][0]["settings"]["data"]).rstrip("/").rpartition("/")[2])


def _table(compared: Mapping[str, dict[str, Any]]) -> str:
    lines, metrics = [], log_metrics()
    for found in compared.values():
        score, means = found["compared"], {group["name"]: group["means"] for group in found["groups"]}
        metric = metrics[score]
        for one in label_pairs(found):
            shown = [show_mean(Mean(**means[one[side]][score]), metric) for side in ("baseline", "group")]
            value = read_difference(one["scores"][score])
            far = f"{metric.write_difference(value.mean)} ({interval(value, metric)})"
            names = f"{cell(one['baseline'])} and {cell(one['group'])}"
            lines.append([f"{_data(found)}: {names}", len(value.seeds), metric.heading, *shown, far])
    heads = ["the same mixed images, another label", "seeds", "score", "first", "second", "second − first, points"]
    return table(heads, lines) + "\nMean ± standard deviation over seeds; the difference with its 95 % interval.\n"


def _accuracy(compared: Mapping[str, dict[str, Any]]) -> str:
    pairs = [one for found in compared.values() for one in label_pairs(found)]
    if not pairs:
        return ""
    beyond = [one for one in pairs if one["verdict"].startswith("More than noise")]
    names = "; ".join(f"{cell(one['group'])} − {cell(one['baseline'])}" for one in beyond)
    return (
        f"**Accuracy**: with the same mixed images, another label changed it by more than noise in {len(beyond)} of "
        f"{len(pairs)} comparisons{f' ({names})' if names else ''}."
    )


NULL = {"line": "a line in the area", "centre": "a prior at the centre", "mean_map": "the model’s mean map"}
"""Rules that look at no image, beside which a claim about labels stands."""


def _truth(truths: list[dict[str, Any]]) -> str:
    """Say what TransMix's label is worth beside rules that look at nothing: EMA, last epoch."""
    found = []
    for one in truths:
        last = max((row["epoch"] or 0) for row in one["truth"])
        rules = next(
            (row["rules"] for row in one["truth"] if ((row["epoch"] or 0), row["model"]) == (last, "ema")), None
        )
        if rules and {"area", "mean", *NULL} <= rules.keys():
            found.append((cell(one["data"]), rules))
    if not found:
        return ""

    def error(rules: dict[str, Any], name: str) -> float:
        return rules[name]["error"][0]

    beats = sum(error(rules, "mean") < min(error(rules, name) for name in NULL) for _, rules in found)
    each = "; ".join(
        f"{data}: area {error(rules, 'area'):.3f}, TransMix {error(rules, 'mean'):.3f}, best of the rules that look "
        f"at nothing {min(error(rules, name) for name in NULL):.3f}"
        + (
            f", each source’s own clean view {error(rules, 'clean_view'):.3f}; of what is specific to the images "
            f"TransMix sees {rules['mean']['image_specific'][0]:.2f}, the clean view "
            f"{rules['clean_view']['image_specific'][0]:.2f} (as a correlation)"
            if "clean_view" in rules
            else ""
        )
        for data, rules in found
    )
    return (
        f"**Labels**: against what is visible of the objects, TransMix’s label is nearer than every rule that looks at "
        f"nothing ({', '.join(NULL.values())}) in {beats} of {len(found)} models. Mean error, {each}."
    )


def _cost(files: Mapping[str, dict[str, Any]]) -> str:
    name, *wanted = STEP
    rows = [row for row in files.get(name, {}).get("rows", []) if [row["case"], row["variant"]] == wanted]
    if not rows:
        return ""
    return f"**Cost**: a training step takes {rows[0]['ratio']:.3f} times the time of CutMix’s ({wanted[0]}, CPU)."


def _missing(compared: Mapping[str, dict[str, Any]]) -> str:
    data = [str(found["groups"][0]["settings"]["data"]).lower() for found in compared.values()]
    if any("imagenet" in one for one in data):
        return ""
    return "**Not measured**: ImageNet, and models as large as the paper’s."
