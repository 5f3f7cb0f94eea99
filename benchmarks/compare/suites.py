"""What suites find of each run of a comparison: measured once a run, shown as means and as TransMix's difference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shown import cell, table

from transmix.cli.evaluate import main as evaluate
from transmix.compare.comparison import Metric
from transmix.compare.statistics import difference, mean_of
from transmix.compare.text import heading, interval, show_mean, show_p, signed

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
    return {name: found[name] for name in names}


def figures(found: dict[str, Any], weights: str) -> dict[tuple[str, str], float]:
    """Return the numbers of FIGURES that a run has, of one set of its weights."""
    numbers = {}
    for suite, name in FIGURES:
        values = found.get(suite, {}).get(weights, {})
        if name in values:
            at = values["ratios"].index(DROPPED) if suite == "occlusion" else None
            numbers[suite, name] = values[name] if at is None else values[name][at]
    return numbers


def shown(groups: Sequence[dict[str, Any]], weights: str, pair: tuple[str, str] | None) -> str:
    """Show the figures of all groups, and how far the first of a pair differs from the second; nothing without any.

    Args:
        groups: of a comparison, as the harness writes them.
        weights: "ema" or "model".
        pair: names of two groups.
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
    lines = []
    for key in measured:
        metric, values = (
            FIGURES[key],
            {name: {seed: one[key] for seed, one in runs.items()} for name, runs in known.items()},
        )
        found = difference(values[pair[0]], values[pair[1]]) if pair else None
        line = [heading(metric), *(show_mean(mean_of(list(of_seed.values())), metric) for of_seed in values.values())]
        lines.append(
            line + ([f"{signed(found.mean, metric)} ({interval(found, metric)})", show_p(found.p)] if found else [])
        )
    heads = ["", *map(cell, known), *([f"{cell(pair[0])} − {cell(pair[1])}", "p"] if pair else [])]
    which = {"ema": "averaged weights", "model": "weights as trained"}[weights]
    return (
        f"\nRobustness, calibration, attention and label truth after the last epoch, {which} "
        f"(`transmix evaluate RUN --suite {' '.join(dict.fromkeys(suite for suite, _ in measured))}`); mean ± standard "
        "deviation over seeds. The difference is of two mixes that differ in the label alone, with its 95 % interval; "
        "p is of that row alone, and among so many rows one below 0.05 can come by chance.\n\n" + table(heads, lines)
    )
