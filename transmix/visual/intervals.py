"""Differences between groups of runs with their intervals, a row each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from transmix.visual.page import Page, shorten
from transmix.visual.palette import COLUMN, INK, MARGIN, PALE, SMALL, our_style

ROW = 0.48  # inches from one row to the next
BELOW = 0.26  # inches that the ticks take


class Estimate(NamedTuple):
    """A mean, its interval if there is one, and the single values."""

    value: float
    low: float | None = None
    high: float | None = None
    each: Sequence[float] = ()


@our_style()
def differences_figure(found: Mapping[str, Estimate], *, width: float = COLUMN) -> Figure:
    """Draw one row per difference with a line at 0: name, every seed, mean and interval.

    Args:
        found: Name -> the difference, in the displayed unit.
        width: Figure width in inches.
    """
    page = Page(width, ROW * len(found) + BELOW)
    axes = page.axes(MARGIN, 0, width - 2 * MARGIN, ROW * len(found))
    axes.set_axis_on()
    axes.set(ylim=(len(found) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if width - 2 * MARGIN > 1.5 else 2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.4g}".replace("-", "−") if value else "0"))
    axes.margins(x=0.08)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    for row, (name, (value, low, high, each)) in enumerate(found.items()):
        page.text(MARGIN, row * ROW + 0.14, shorten(name, width - 2 * MARGIN, SMALL), size=SMALL)
        middle = [row + 0.15]  # below its name
        if low is not None and high is not None:
            axes.plot([low, high], 2 * middle, color=INK, linewidth=2.2, solid_capstyle="butt", alpha=0.5)
        axes.plot([value], middle, color=INK, marker="|", markersize=11, markeredgewidth=2)
        circle = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 0.9}
        axes.plot(each, middle * len(each), color=PALE, linestyle="", **circle)  # type: ignore[arg-type]
    return page.figure
