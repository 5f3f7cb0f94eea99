"""How numbers are written: the same on the page, in Markdown and in the terminal."""

from transmix.compare.comparison import METRICS, Compared, Comparison, Metric
from transmix.compare.statistics import Difference, Mean
from transmix.evaluation.metrics import added_metrics

COLUMNS = {
    "ema_top1": ("ema_top1", "top1", "ema_top5", "ema_val_loss", "ema_calibration_error"),
    "top1": ("top1", "top5", "val_loss", "calibration_error"),
}
"""Compared score -> scores of the table beside it; the rest stands in the JSON."""

ALWAYS = ("label_shift", "seconds", "images_per_second")
ABSENT = "–"


def columns(comparison: Comparison) -> list[str]:
    """Return the names of the metrics that tables show."""
    added = [name for name in METRICS if name.removeprefix("ema_") in added_metrics()]
    return [name for name in (*COLUMNS[comparison.score], *added, *ALWAYS) if name in comparison.metrics]


def heading(metric: Metric) -> str:
    """Return a metric's name with its unit."""
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def show(value: float | None, metric: Metric) -> str:
    """Write a value in a metric's unit; – for none."""
    return ABSENT if value is None else f"{metric.factor * value:.{metric.decimals}f}"


def show_mean(mean: Mean | None, metric: Metric) -> str:
    """Write "mean ± standard deviation", the mean alone for one seed."""
    if mean is None:
        return ABSENT
    return show(mean.mean, metric) + ("" if mean.sd is None else f" ± {show(mean.sd, metric)}")


def signed(value: float | None, metric: Metric) -> str:
    """Write a difference with its sign."""
    return ABSENT if value is None else f"{metric.factor * value:+.{metric.decimals}f}".replace("-", "−")


def interval(found: Difference, metric: Metric) -> str:
    """Write "low to high"; – without one."""
    return ABSENT if found.low is None else f"{signed(found.low, metric)} to {signed(found.high, metric)}"


def show_p(p: float | None) -> str:
    """Write a p value."""
    return ABSENT if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def unit_of_difference(metric: Metric) -> str:
    """Return what a difference is counted in: of percentages, points."""
    return "points" if metric.unit == "%" else metric.unit


def size(one: Compared, score: str) -> str:
    """Say how large a difference is, its interval, and over how many seeds."""
    metric, found = METRICS[score], one.scores[score]
    n = len(found.seeds)
    words = f"{signed(found.mean, metric)} {unit_of_difference(metric)} of {metric.label}"
    words += f", 95 % interval {interval(found, metric)}" if found.low is not None else ""
    return f"{words}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}\N{NO-BREAK SPACE}seed{'s' * (n > 1)}"


def reading_notes(comparison: Comparison) -> list[str]:
    """Return what every reader of such tables should know, one sentence or two each."""
    seeds = [len(one.scores[comparison.score].seeds) for one in comparison.compared]
    runs = [run for group in comparison.groups for run in group.finished]
    images = next((sum(run.images) for run in runs if run.images), None)
    tests = len([one for one in comparison.compared if one.p_holm is not None])
    score = METRICS[comparison.score].label
    which = "the running average of the weights" if comparison.score == "ema_top1" else "the weights themselves"
    notes = [
        f"Compared is {score} after the LAST epoch, of {which}. The best epoch's score is higher, but optimistic: it "
        f"is chosen on the images that it is measured on.",
        "A difference is taken seed by seed, as the same seed means the same data, order, split and first weights. "
        "The interval is Student's t over these differences.",
        "Shared is what two groups see alike with the same seed, found by drawing their first mixing: no mixing counts "
        "as alike where both do not mix. Where all mixed images are the same, the difference is that of the labels.",
    ]
    if seeds and min(seeds) < 10:
        few = min(seeds)
        notes.append(
            f"n = {few if few == max(seeds) else f'{few} to {max(seeds)}'} is few: with two seeds the interval is "
            f"12.7 standard errors to each side, with three 4.3, with five 2.8. A difference that is not more than "
            f"noise may still be there; more seeds would say."
        )
    if tests > 1:
        notes.append(
            f"{tests} comparisons are made at once. Each one's interval is its own; the p beside it is raised by "
            f"Holm's method, so that the chance of any false alarm among all stays at 5 %."
        )
    if images:
        share = sum(run.epochs[-1][comparison.score] for run in runs) / len(runs)
        error = 100 * (share * (1 - share) / images) ** 0.5
        notes.append(
            f"Measured on {images:,} validation images: one run's {score} has a sampling error of about {error:.1f} "
            f"points by itself. Runs keep no record of which images they got right, so none is used."
        )
    if runs and runs[0].settings["data"] in ("digits", "digits48"):
        notes.append("With the built-in digits the seed draws images and split too, so the intervals cover these.")
    else:
        notes.append("All seeds see the same images: the intervals speak of these, not of others of their kind.")
    notes.append(
        "Time is that of the training steps, by the log, without evaluation; it compares only what ran alike (as many "
        "at a time, on the same machine). Label shift: how far attention moved the label of rows with a box, mean "
        "|area − label|, in the last epoch that mixed."
    )
    return notes
