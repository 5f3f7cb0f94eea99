"""Values with intervals, one row each: label rules against the truth, and differences between groups of runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from transmix.visual.page import Page, shorten, text_width
from transmix.visual.palette import AVERAGE, COLUMN, GAP, INK, MARGIN, MODEL, PAGE, PALE, SMALL, TEXT, our_style

ROW = 0.24  # inches from one row to the next
BELOW = 0.26  # inches that the ticks take

PANELS = {"error": ("mean error", MODEL), "rank_correlation": ("rank correlation", AVERAGE)}
"""Score of a label rule -> its title and its colour."""


class Estimate(NamedTuple):
    """A mean, its interval if there is one, and the single values."""

    value: float
    low: float | None = None
    high: float | None = None
    each: Sequence[float] = ()


@our_style()
def label_truth_figure(
    found: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    baseline: str = "area",
    title: str = "",
    width: float = PAGE,
) -> Figure:
    """Draw one row per rule, in two panels side by side; a line marks the baseline.

    Args:
        found: Rule -> 'error' and 'rank_correlation', each (value, low, high), from
            `transmix.evaluation.label_truth.agreement`.
        baseline: The rule that others are compared with, in grey; it need not be in `found`.
        title: Title.
        width: Figure width in inches.

    Raises:
        ValueError: There is no rule.
    """
    if not found:
        raise ValueError("no label rule to draw")
    names = [name.replace("_", ", ") for name in found]
    wide = min(max(text_width(name, TEXT) for name in names) / 0.9, 0.3 * width)
    above, left = 0.5 if title else 0.28, MARGIN + wide + GAP
    each, height = (width - left - 2 * GAP - MARGIN) / 2, ROW * len(found)
    notes = ("of a label with the truth by masks", "bars: 95 % intervals", "dashed: the label by " + baseline)
    page = Page(width, above + height + BELOW, notes)
    page.text(MARGIN, 0.2, shorten(title, width - 2 * MARGIN, TEXT, "bold"), weight="bold")
    for row, name in enumerate(names):
        page.text(MARGIN, above + (row + 0.5) * ROW, shorten(name, wide, TEXT), va="center")
    for number, (score, (heading, colour)) in enumerate(PANELS.items()):
        start = left + number * (each + 2 * GAP)
        page.text(start, above - 0.08, shorten(heading, each, TEXT), color=PALE)
        estimates = {name: Estimate(*scores[score]) for name, scores in found.items()}
        line = estimates[baseline].value if baseline in estimates else None
        colours = [PALE if name == baseline else colour for name in estimates]
        _draw(page.axes(start, above, each, height), list(estimates.values()), line, colours)
    return page.figure


@our_style()
def differences_figure(found: Mapping[str, Estimate], *, width: float = COLUMN) -> Figure:
    """Draw one row per difference with a line at 0: name, every seed, mean and interval.

    Args:
        found: Name -> the difference, in the displayed unit.
        width: Figure width in inches.
    """
    row = 2 * ROW
    page = Page(width, row * len(found) + BELOW)
    axes = page.axes(MARGIN, 0, width - 2 * MARGIN, row * len(found))
    _draw(axes, list(found.values()), 0.0, [INK] * len(found))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.4g}".replace("-", "−") if value else "0"))
    for number, name in enumerate(found):
        text = shorten(name, width - 2 * MARGIN, SMALL)
        page.text(MARGIN, number * row + 0.14, text, size=SMALL)
    return page.figure


def _draw(axes: Axes, estimates: Sequence[Estimate], line: float | None, colours: Sequence[str]) -> None:
    axes.set_axis_on()
    axes.set(ylim=(len(estimates) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if axes.bbox.width / axes.figure.dpi > 1.5 else 2))
    axes.margins(x=0.08)
    if line is not None:
        axes.axvline(line, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    dot: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linestyle": ""}
    for row, ((value, low, high, each), colour) in enumerate(zip(estimates, colours, strict=True)):
        middle = row + 0.15 if each else row  # below its name
        if low is not None and high is not None:
            axes.plot([low, high], [middle] * 2, color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.5)
        if each:
            axes.plot([value], [middle], color=colour, marker="|", markersize=11, markeredgewidth=2)
            axes.plot(each, [middle] * len(each), **dot, color=PALE, markerfacecolor="white", markeredgewidth=0.9)
        else:
            axes.plot([value], [row], **dot, color=colour, markeredgecolor="white", markeredgewidth=0.5)
