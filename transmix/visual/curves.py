"""Training curves of a run, from its log."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from transmix.metrics import METRICS, TRAINING_METRICS
from transmix.runs.log import training_windows
from transmix.visual.page import Page
from transmix.visual.palette import AVERAGE, COLUMN, MARGIN, MODEL, ON_PAGE, PAGE, TRAINING, our_style


def _validation(name: str) -> dict[str, tuple[str, str]]:
    return {"validation": ("epoch", name), "validation, EMA": ("epoch", f"ema_{name}")}


CURVES = {"loss": {"training": ("train", "loss")} | _validation("val_loss")}
CURVES |= {METRICS[name].label: _validation(name) for name in ("top1", "calibration_error")}
CURVES |= {
    TRAINING_METRICS[name].label: {"training": ("train", name)} for name in ("mixed_accuracy", "label_shift", "lr")
}
"""Panel -> curve -> (kind of row, name) in the log."""

LOOKS: dict[str, dict[str, Any]] = {
    "training": {"color": TRAINING, "linewidth": 0.9},
    "validation": {"color": MODEL, "marker": "o", "markersize": 2.6},
    "validation, EMA": {"color": AVERAGE, "linestyle": "--", "marker": "s", "markersize": 2.3},
}
"""How curves are told apart: by colour, line and marker."""

SHARES = {metric.label for metric in (METRICS | TRAINING_METRICS).values() if metric.factor == 100}
"""Panels of shares, which are written in percent."""

MOST_MARKS = 40  # points of a curve; more of them are drawn as a line alone


class Curve(NamedTuple):
    """One curve, a value that is not finite leaves a gap in it; and the band around it, if there is one."""

    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def read_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Sort the rows of a log into curves: panel -> curve -> its points; what the log has nothing of is left out."""
    panels: dict[str, dict[str, Curve]] = {}
    for panel, curves in CURVES.items():
        for curve, (kind, name) in curves.items():
            known = [row for row in rows if row["kind"] == kind and isinstance(row.get(name), int | float)]
            averaged = kind == "train" and name != "lr"
            points = training_windows(rows, name) if averaged else [(row["step"], row[name]) for row in known]
            if points:
                panels.setdefault(panel, {})[curve] = Curve(*map(list, zip(*points, strict=True)))
    return panels


@our_style()
def curves_figure(panels: Mapping[str, Mapping[str, Curve]], *, width: float = PAGE) -> Figure:
    """Draw each panel over the optimizer step: three side by side, two in a column of a paper.

    Args:
        panels: Of `read_curves`.
        width: Of the figure in inches.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not panels:
        raise ValueError("nothing to draw: no curves")
    across = min(len(panels), 3 if width >= 5 else 2 if width >= 0.8 * COLUMN else 1)
    above, legend = 0.24, 0.24
    each, height = width / across, _height(width / across)
    lines = -(-len(panels) // across)
    of_mixed = " and ".join(TRAINING_METRICS[name].label for name in ("mixed_accuracy", "label_shift"))
    notes = ("over the optimizer step", f"{of_mixed}: of training batches as they were mixed")
    page = Page(width, legend + lines * (above + height), notes)
    steps = [step for curves in panels.values() for curve in curves.values() for step in curve.steps]
    ends, drawn = (min(steps), max(steps)), {}
    for number, (title, curves) in enumerate(panels.items()):
        row, column = divmod(number, across)
        corner = column * each, legend + row * (above + height) + above
        axes = draw_curves(page, corner, each, curves, share=title in SHARES, ends=ends)
        axes.set_title(title, pad=4)
        drawn |= dict(zip(curves, axes.lines, strict=True))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (MARGIN / width, 1 - 0.05 / page.height)}
    kept = {name: drawn[name] for name in LOOKS if name in drawn}
    page.figure.legend(kept.values(), kept, ncols=3, borderaxespad=0, borderpad=0.2, columnspacing=1.4, **place)
    return page.figure


@our_style()
def curve_figure(
    curves: Mapping[str, Curve],
    *,
    looks: Mapping[str, Mapping[str, Any]] = LOOKS,
    share: bool = False,
    ends: tuple[float, float] | None = None,
    width: float = ON_PAGE,
) -> Figure:
    """Draw one panel for a page, which has its title and its legend.

    Args:
        curves: Name -> curve.
        looks: Name of a curve -> how it looks, as matplotlib's `plot` takes it.
        share: Whether values are shares, to be written in percent.
        ends: Of the axis of the steps; None: first and last step.
        width: Of the figure in inches.
    """
    page = Page(width, _height(width))
    draw_curves(page, (0, 0.05), width, curves, looks=looks, share=share, ends=ends)
    return page.figure


@our_style()
def swatch(look: Mapping[str, Any]) -> Figure:
    """Draw a piece of a curve, for a legend."""
    page = Page(0.3, 0.12)
    axes = page.axes(0, 0, 0.3, 0.12)
    axes.plot([0, 1, 2], [0, 0, 0], **{"markevery": [1], **look})
    axes.set_xlim(0, 2)
    return page.figure


def draw_curves(
    page: Page,
    corner: tuple[float, float],
    width: float,
    curves: Mapping[str, Curve],
    *,
    looks: Mapping[str, Mapping[str, Any]] = LOOKS,
    share: bool = False,
    ends: tuple[float, float] | None = None,
) -> Axes:
    """Draw curves with their axes in a strip of a page; `corner` is its upper left one in inches."""
    left, right, below = 0.42, 0.10, 0.26
    axes = page.axes(corner[0] + left, corner[1], width - left - right, _height(width) - below - 0.05)
    axes.set_axis_on()
    for name, curve in curves.items():
        look: dict[str, Any] = dict(looks[name])
        if np.isfinite(curve.values).sum() == 1:
            look["marker"] = look.get("marker") or "."  # a line of one point is not seen
        elif len(curve.steps) > MOST_MARKS:
            look["marker"] = ""
        values = np.where(np.isfinite(curve.values), curve.values, np.nan)
        axes.plot(curve.steps, values, label=name, **look)
        if len(curve.low):
            colour, gid = look["color"], look.get("gid")
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0, gid=gid)
    steps = [step for curve in curves.values() for step in curve.steps]
    first, last = ends or (min(steps), max(steps))
    margin = 0.04 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    axes.yaxis.set_major_formatter((lambda value, _: f"{100 * value:.4g}%") if share else _number)
    axes.xaxis.set_major_formatter(_number)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    return axes


def thinned(curve: Curve, most: int = 300) -> Curve:
    """Replace neighbours by their mean until at most `most` points are left; a gap among them makes a gap."""
    group = -(-len(curve.steps) // most)
    cuts = range(0, len(curve.steps), max(group, 1))
    return Curve(*([float(np.mean(part[at : at + group])) for at in cuts] for part in curve[:2]))


def _height(width: float) -> float:
    """Return the height in inches of a panel with its axes."""
    return max(0.7 * (width - 0.52), 0.8) + 0.31


def _number(value: float, _: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
