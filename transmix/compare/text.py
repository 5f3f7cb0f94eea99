"""The texts of a comparison, shared by the page, Markdown and the terminal."""

from pathlib import Path

from transmix.compare.comparison import Compared, Comparison
from transmix.compare.statistics import Difference, Mean
from transmix.metrics import NONE, TRAINING_METRICS, Metric, added_metrics
from transmix.report.page import render
from transmix.runs.weights import NAMES

COLUMNS = {
    "ema_top1": ("ema_top1", "top1", "ema_top5", "ema_val_loss", "ema_calibration_error"),
    "top1": ("top1", "top5", "val_loss", "calibration_error"),
}
"""Compared score -> scores of the table beside it; the rest stands in the JSON."""

ALWAYS = ("label_shift", "seconds", "images_per_second")


def columns(comparison: Comparison) -> dict[str, Metric]:
    """Return name -> metric for the columns of the tables."""
    added = [name for name in comparison.metrics if name.removeprefix("ema_") in added_metrics()]
    names = (*COLUMNS[comparison.score], *added, *ALWAYS)
    return {name: comparison.metrics[name] for name in names if name in comparison.metrics}


def show_mean(mean: Mean | None, metric: Metric) -> str:
    """Write "mean ± standard deviation", the mean alone for one seed."""
    if mean is None:
        return NONE
    return metric.write(mean.mean, False) + ("" if mean.sd is None else f" ± {metric.write(mean.sd, False)}")


def interval(found: Difference, metric: Metric) -> str:
    """Write "low to high"; – without one."""
    if found.low is None:
        return NONE
    return f"{metric.write_difference(found.low)} to {metric.write_difference(found.high)}"


def show_p(p: float | None) -> str:
    """Write a p value."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(one: Compared, score: str, metric: Metric) -> str:
    """Write a difference with its interval and the number of seeds."""
    found = one.scores[score]
    n = len(found.seeds)
    words = f"{metric.write_difference(found.mean)} {metric.difference_unit} of {metric.label}"
    words += f", 95 % interval {interval(found, metric)}" if found.low is not None else ""
    return f"{words}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}\N{NO-BREAK SPACE}seed{'s' * (n > 1)}"


def verdict(comparison: Comparison) -> str:
    """Return what the comparison says, in a few sentences: beyond noise or not, whether to trust it, what next."""
    score = comparison.score
    metric, tested = comparison.metrics[score], [one for one in comparison.compared if one.p_holm is not None]
    if not comparison.compared:
        return "One group with finished runs: nothing to compare. Next: name runs of another mix or label beside these."
    if not tested:
        return (
            f"Nothing can be said about noise: no difference of {metric.label} of {weights_of(comparison)} can be "
            f"believed yet. Next: more seeds, transmix compare --mix ... --seeds 3 --out RUNS."
        )
    beyond = [one for one in tested if one.verdict.startswith("More than noise")]
    said = [f"{one.group} − {one.baseline} ({size(one, score, metric)})" for one in beyond]
    alone = [one for one in tested if one.shared.all]
    parts = [
        f"Of {len(tested)} difference{'s' * (len(tested) > 1)} of {metric.label}, of {weights_of(comparison)}, "
        f"{len(beyond) or 'none'} {'are' if len(beyond) > 1 else 'is'} more than noise"
        + (f": {'; '.join(said)}." if said else ".")
    ]
    if alone:
        names = ", ".join(f"{one.group} − {one.baseline}" for one in alone)
        count = sum(one in beyond for one in alone)
        worth = f"{count} of {len(alone)} more than noise" if count else "not more than noise"
        parts.append(f"The label alone differs in {names}: {worth}.")
    seeds = min(len(one.scores[score].seeds) for one in tested)
    parts.append(
        "Next: more seeds, which would tell smaller differences." if seeds < 5 else "Next: the same on data of yours."
    )
    return " ".join(parts)


def weights_of(comparison: Comparison) -> str:
    """Name the weights (model or EMA) of the compared score."""
    return f"the {NAMES['ema' if comparison.score.startswith('ema_') else 'model']}"


def reading_notes(comparison: Comparison) -> list[str]:
    """Return general notes on how to read the tables, one or two sentences each."""
    runs = [run for group in comparison.groups for run in group.finished]
    notes = render(
        Path(__file__).with_name("notes.txt"),
        score=comparison.metrics[comparison.score],
        weights=weights_of(comparison),
        seeds=[len(one.scores[comparison.score].seeds) for one in comparison.compared],
        tests=len([one for one in comparison.compared if one.p_holm is not None]),
        images=next((sum(run.images) for run in runs if run.images), None),
        share=sum(run.epochs[-1][comparison.score] for run in runs) / len(runs),
        data=runs[0].settings["data"],
        shift=TRAINING_METRICS["label_shift"],
    )
    return notes.splitlines()
