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
