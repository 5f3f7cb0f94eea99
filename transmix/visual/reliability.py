"""The reliability diagram: accuracy against confidence, and the number of samples per bin."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from transmix.visual.overlay import as_array
from transmix.visual.page import Page, text_width
from transmix.visual.palette import COLUMN, INK, MODEL, PALE, PARTNER, our_style

COUNT = 5.5  # points, of the number of images above a bin


class Reliability(NamedTuple):
    """Samples sorted by confidence into M bins; nan where a bin is empty."""

    counts: np.ndarray  # (M,) int64
    accuracy: np.ndarray  # (M,) float64, 0..1
    confidence: np.ndarray  # (M,) float64, their mean, 0..1
    error: float  # expected calibration error, 0..1


def reliability(logits: Any, labels: Any, bins: int = 15) -> Reliability:
    """Sort predictions by confidence, the highest softmax probability, into bins ((m-1)/M, m/M].

        ECE = sum over bins m of (n_m / n) * |accuracy_m - mean confidence_m|

    Args:
        logits: (n, K) float.
        labels: (n,) int64.
        bins: M.

    Raises:
        ValueError: No samples, or logits that are not finite.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 2; bins as in `CalibrationError`.
    """
    values, truth = as_array(logits).astype(np.float64), as_array(labels)
    if len(values) == 0:
        raise ValueError("no predictions to sort by confidence")
    if bad := int((~np.isfinite(values).all(1)).sum()):
        raise ValueError(f"{bad} of {len(values)} predictions are not finite; they have no confidence to sort by")
    confidence = 1 / np.exp(values - values.max(1, keepdims=True)).sum(1)
    hit = values.argmax(1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return of_bins(*(np.bincount(place, weights, bins) for weights in (hit, confidence, None)))


def of_bins(hits: np.ndarray, confidence: np.ndarray, counts: np.ndarray) -> Reliability:
    """Make the means of the bins' sums, each (M,): of right predictions, of confidence, and of samples."""
    with np.errstate(invalid="ignore"):
        accuracy, mean = hits / counts, confidence / counts
    return Reliability(counts, accuracy, mean, float(np.nansum(counts * np.abs(accuracy - mean)) / counts.sum()))


@our_style()
def reliability_figure(
    found: Reliability, *, title: str = "", width: float = COLUMN, with_notes: bool = True
) -> Figure:
    """Draw accuracy against confidence, bin by bin, over the number of samples in each.

    Bars are accuracies; the orange part reaches to the bin's mean confidence: above the bar if the model is
    overconfident, inside it if underconfident.

    Args:
        found: Result of `reliability`.
        title: Title.
        width: Figure width in inches.
        with_notes: Whether to add notes below; a page has them in its own text.
    """
    left, right, above, gap, below = 0.56, 0.20, 0.28 if title else 0.08, 0.10, 0.34
    each = width - left - right
    main, small = min(0.75 * each, 3.4), min(0.3 * each, 1.2)
    notes = (
        f"expected calibration error {found.error:.1%}",
        f"{found.counts.sum():,} images",
        "blue: accuracy, orange: from there to the mean confidence",
    )
    page = Page(width, above + main + gap + small + below, notes if with_notes else ())
    page.text(left, above - 0.1, title, weight="bold")
    bins = len(found.counts)
    edges = np.arange(bins) / bins
    full = found.counts > 0
    upper = page.axes(left, above, each, main)
    lower = page.axes(left, above + main + gap, each, small)
    style: dict[str, Any] = {"width": 1 / bins, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
    for axes in (upper, lower):
        axes.set_axis_on()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    upper.bar(edges[full], found.accuracy[full], color=MODEL, label="accuracy", **style)
    between = found.confidence[full] - found.accuracy[full]
    thin = style | {"width": 0.36 / bins, "linewidth": 0}
    middle = edges[full] + 0.32 / bins
    upper.bar(middle, between, bottom=found.accuracy[full], color=PARTNER, label="gap", **thin)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    upper.set(ylim=(0, 1), ylabel="accuracy")
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    upper.tick_params(labelbottom=False)
    lower.bar(edges, found.counts, color=PALE, label="images", **style)
    lower.set(xlabel="confidence", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    upright = text_width(str(found.counts.max()), COUNT) > each / bins  # side by side they would touch
    lower.set_ylim(0, found.counts.max() * (1.6 if upright else 1.22))
    turned: dict[str, Any] = {"rotation": 90 if upright else 0, "ha": "center", "va": "bottom", "size": COUNT}
    for edge, count in zip(edges[full], found.counts[full], strict=True):
        lower.annotate(str(count), (edge + 0.5 / bins, count), (0, 1.5), textcoords="offset points", **turned)
    return page.figure
