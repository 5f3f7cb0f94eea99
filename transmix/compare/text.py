"""How a comparison is put into words: the same on the page, in Markdown and in the terminal."""

from transmix.compare.comparison import Compared, Comparison
from transmix.compare.statistics import Difference, Mean
from transmix.metrics import NONE, TRAINING_METRICS, Metric, added_metrics
from transmix.runs.weights import NAMES

COLUMNS = {
    "ema_top1": ("ema_top1", "top1", "ema_top5", "ema_val_loss", "ema_calibration_error"),
    "top1": ("top1", "top5", "val_loss", "calibration_error"),
}
"""Compared score -> scores of the table beside it; the rest stands in the JSON."""

ALWAYS = ("label_shift", "seconds", "images_per_second")


def columns(comparison: Comparison) -> dict[str, Metric]:
    """Return the metrics that tables show, by their names."""
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
    """Say how large a difference is, its interval, and over how many seeds."""
    found = one.scores[score]
    n = len(found.seeds)
    words = f"{metric.write_difference(found.mean)} {metric.difference_unit} of {metric.label}"
    words += f", 95 % interval {interval(found, metric)}" if found.low is not None else ""
    return f"{words}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}\N{NO-BREAK SPACE}seed{'s' * (n > 1)}"


def weights_of(comparison: Comparison) -> str:
    """Say which weights the compared score is of."""
    return f"the {NAMES['ema' if comparison.score.startswith('ema_') else 'model']}"


def reading_notes(comparison: Comparison) -> list[str]:
    """Return what every reader of such tables should know, one sentence or two each."""
    seeds = [len(one.scores[comparison.score].seeds) for one in comparison.compared]
    runs = [run for group in comparison.groups for run in group.finished]
    images = next((sum(run.images) for run in runs if run.images), None)
    tests = len([one for one in comparison.compared if one.p_holm is not None])
    score = comparison.metrics[comparison.score]
    better = f" ({score.better} is better)" if score.better else ""
    notes = [
        f"Compared is {score.label}{better} after the LAST epoch, of {weights_of(comparison)}. The best epoch's score "
        "is higher, but optimistic: it is chosen on the images that it is measured on.",
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
            f"Measured on {images:,} validation images: one run's {score.label} has a sampling error of about "
            f"{error:.1f} points by itself. Runs keep no record of which images they got right, so none is used."
        )
    if runs and runs[0].settings["data"] in ("digits", "digits48"):
        notes.append("With the built-in digits the seed draws images and split too, so the intervals cover these.")
    else:
        notes.append("All seeds see the same images: the intervals speak of these, not of others of their kind.")
    notes.append(
        "Time is that of the training steps, by the log, without evaluation; it compares only what ran alike (as many "
        f"at a time, on the same machine). The {TRAINING_METRICS['label_shift'].label}, of the last epoch that mixed: "
        f"{TRAINING_METRICS['label_shift'].meaning}."
    )
    return notes
