"""What suites find of each run of a comparison: measured once a run, shown as means and as TransMix's difference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shown import cell, table

from transmix.cli.evaluate import main as evaluate
from transmix.compare.statistics import difference, holm, mean_of
from transmix.compare.text import interval, show_mean, show_p
from transmix.metrics import Metric
from transmix.runs.weights import NAMES

DROPPED = 0.5
"""Share of the patches whose loss is shown; the files hold the others."""

PERCENT = {"factor": 100, "unit": "%"}

FIGURES = {
    ("calibration", "calibration_error_equal_mass"): Metric("calibration error, equal mass", **PERCENT),
    ("calibration", "calibration_error_after"): Metric("after temperature scaling", **PERCENT),
    ("calibration", "brier_score"): Metric("Brier score", decimals=3),
    ("occlusion", "random"): Metric("top-1, half the patches dropped", **PERCENT),
    ("occlusion", "salient"): Metric("top-1, the salient half dropped", **PERCENT),
    ("occlusion", "non_salient"): Metric("top-1, the other half dropped", **PERCENT),
    ("attention-quality", "jaccard"): Metric("attention: Jaccard", **PERCENT),
    ("attention-quality", "pointing"): Metric("attention: pointing", **PERCENT),
    ("attention-quality", "mass_on_foreground"): Metric("attention on the foreground", **PERCENT),
    ("attention-quality", "own_over_other"): Metric("attention: own object over another's", decimals=2),
    ("attention-quality", "explained_by_position"): Metric("attention explained by position", **PERCENT),
    ("knn", "top1"): Metric("k-NN on frozen features, top-1", **PERCENT),
    ("linear-probe", "top1"): Metric("linear probe, top-1", **PERCENT),
    ("segmentation-probe", "miou"): Metric("linear layer on patch tokens, mIoU", **PERCENT),
    ("segmentation-probe", "miou_position"): Metric("position alone, mIoU", **PERCENT),
    ("label-truth", "error_area"): Metric("label error by area", decimals=3),
    ("label-truth", "error_attention"): Metric("label error by attention", decimals=3),
    ("label-truth", "error_mean"): Metric("label error by their mean", decimals=3),
}
"""(suite, name in it) -> how it is shown."""


def measure(run: Path, suites: Sequence[str]) -> dict[str, Any]:
    """Return what the suites find of a run, by set of weights; a run that has been measured by them is not again.

    Args:
        run: folder of a finished run.
        suites: words of `transmix evaluate RUN --suite ...`: their names, then settings.
    """
    path = run / "evaluation.json"
    names = [word for word in suites if word in {suite for suite, _ in FIGURES}]
    if not path.exists() or any(name not in json.loads(path.read_text()) for name in names):
        evaluate([str(run), "--suite", *suites])
    found = json.loads(path.read_text())
    return rounded({name: found[name] for name in names})


def rounded(value: Any) -> Any:
    """Return a value with all numbers in it rounded to six decimals."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def figures(found: dict[str, Any], weights: str) -> dict[tuple[str, str], float]:
    """Return the numbers of FIGURES that a run has, of one set of its weights."""
    numbers = {}
    for suite, name in FIGURES:
        values = found.get(suite, {}).get(weights, {})
        if name in values:
            at = values["ratios"].index(DROPPED) if suite == "occlusion" else None
            numbers[suite, name] = values[name] if at is None else values[name][at]
    return numbers


def shown(groups: Sequence[dict[str, Any]], weights: str, pairs: Sequence[dict[str, Any]]) -> str:
    """Show the figures of all groups, and how far both groups of each pair differ; nothing without any.

    Args:
        groups: of a comparison, as the harness writes them.
        weights: "ema" or "model".
        pairs: differences of a comparison, of groups that differ in the label alone.
    """
    known = {
        group["name"]: {run["seed"]: figures(run["suites"], weights) for run in group["runs"] if run.get("suites")}
        for group in groups
    }
    measured = [
        key for key in FIGURES if all(runs and all(key in one for one in runs.values()) for runs in known.values())
    ]
    if not measured:
        return ""
    values = {
        key: {name: {seed: one[key] for seed, one in runs.items()} for name, runs in known.items()} for key in measured
    }
    names = list(dict.fromkeys(suite for suite, _ in measured))
    parts = [
        f"\nRobustness, calibration, attention and label truth after the last epoch, {NAMES[weights]} "
        f"(`transmix evaluate RUN --suite {' '.join(names)}`); mean ± standard deviation over seeds.\n"
    ]
    for suite in names:  # a row for every group: there may be many
        keys = [key for key in measured if key[0] == suite]
        lines = [
            [cell(name), *(show_mean(mean_of(list(values[key][name].values())), FIGURES[key]) for key in keys)]
            for name in known
        ]
        parts.append("\n" + table(["", *(FIGURES[key].heading for key in keys)], lines))
    for one in pairs:
        lines = differences({key: (of[one["group"]], of[one["baseline"]]) for key, of in values.items()})
        heads = [f"{cell(one['group'])} − {cell(one['baseline'])}", "mean", "p", "p by Holm"]
        parts.append("\n" + table(heads, lines))
    if pairs:
        parts.append(
            "\nA difference is of two groups that differ in the label alone, with its 95 % interval; p is of that row "
            "alone, and among so many rows one below 0.05 can come by chance: by Holm, over all of the table.\n"
        )
    return "".join(parts)


def differences(values: dict[tuple[str, str], tuple[dict[int, float], dict[int, float]]]) -> list[list[str]]:
    """Show for each figure how far one group's seeds are from another's: mean, interval, p, and p by Holm over all."""
    found = {key: difference(*both) for key, both in values.items()}
    tested = {key: one.p for key, one in found.items() if one is not None and one.p is not None}
    raised = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        [
            FIGURES[key].heading,
            f"{FIGURES[key].write_difference(one.mean)} ({interval(one, FIGURES[key])})",
            show_p(one.p),
            show_p(raised.get(key)),
        ]
        if one is not None
        else [FIGURES[key].heading, "", "", ""]
        for key, one in found.items()
    ]
