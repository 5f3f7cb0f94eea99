"""How near each label rule comes to the truth: mean error and rank correlation, each with its 95 % interval."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from transmix.visual.page import Page, shorten, text_width
from transmix.visual.palette import AVERAGE, GAP, INK, MARGIN, MODEL, PAGE, PALE, TEXT, our_style

ROW = 0.24  # inches from one rule to the next

Estimate = tuple[float, float, float]
"""Value, lower and upper end of its interval."""

PANELS = {"error": "mean error", "rank_correlation": "rank correlation"}


@our_style()
def label_truth_figure(
    found: Mapping[str, Mapping[str, Estimate]], *, baseline: str = "area", title: str = "", width: float = PAGE
) -> Figure:
    """Draw one row a rule, in two panels side by side; a line through both marks the baseline.

    Args:
        found: Rule -> 'error' and 'rank_correlation', as `transmix.evaluation.agreement.agreement` gives them.
        baseline: The rule that others are compared with, in grey; it need not be among them.
        title: Above it all.
        width: Of the figure in inches.

    Raises:
        ValueError: No rule.
    """
    if not found:
        raise ValueError("no label rule to draw")
    names = [name.replace("_", ", ") for name in found]
    wide = min(max(text_width(name, TEXT) for name in names) / 0.9, 0.3 * width)
    above, below, left = 0.5 if title else 0.28, 0.26, MARGIN + wide + GAP
    each, height = (width - left - 2 * GAP - MARGIN) / 2, ROW * len(found)
    page = Page(
        width,
        above + height + below,
        ("of a label with the truth by masks", "bars: 95 % intervals", "dashed: the label by " + baseline),
    )
    page.text(MARGIN, 0.2, shorten(title, width - 2 * MARGIN, TEXT, "bold"), weight="bold")
    for row, name in enumerate(names):
        page.text(MARGIN, above + (row + 0.5) * ROW, shorten(name, wide, TEXT), va="center")
    for number, (score, heading) in enumerate(PANELS.items()):
        start = left + number * (each + 2 * GAP)
        page.text(start, above - 0.08, shorten(heading, each, TEXT), color=PALE)
        colour = MODEL if score == "error" else AVERAGE
        _draw(
            page.axes(start, above, each, height), {name: one[score] for name, one in found.items()}, baseline, colour
        )
    return page.figure


def _draw(axes: Axes, estimates: Mapping[str, Estimate], baseline: str, colour: str) -> None:
    axes.set_axis_on()
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if axes.bbox.width / axes.figure.dpi > 1.5 else 2))
    axes.margins(x=0.08)
    if baseline in estimates:
        axes.axvline(estimates[baseline][0], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    for row, (name, (value, low, high)) in enumerate(estimates.items()):
        shade = PALE if name == baseline else colour
        axes.plot([low, high], [row, row], color=shade, linewidth=2.2, solid_capstyle="butt", alpha=0.5)
        axes.plot([value], [row], color=shade, marker="o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
