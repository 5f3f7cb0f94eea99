"""Training curves of a run, from its log."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from transmix.metrics import METRICS, TRAINING_METRICS
from transmix.runs.log import training_windows
from transmix.visual.page import Page
from transmix.visual.palette import AVERAGE, COLUMN, MARGIN, MODEL, PAGE, TRAINING, our_style

CURVES = {
    "loss": {
        "training": ("train", "loss"),
        "validation": ("epoch", "val_loss"),
        "validation, EMA": ("epoch", "ema_val_loss"),
    },
    METRICS["top1"].label: {"validation": ("epoch", "top1"), "validation, EMA": ("epoch", "ema_top1")},
    METRICS["calibration_error"].label: {
        "validation": ("epoch", "calibration_error"),
        "validation, EMA": ("epoch", "ema_calibration_error"),
    },
    TRAINING_METRICS["mixed_accuracy"].label: {"training": ("train", "mixed_accuracy")},
    TRAINING_METRICS["label_shift"].label: {"training": ("train", "label_shift")},
    TRAINING_METRICS["lr"].label: {"training": ("train", "lr")},
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


class Curve(NamedTuple):
    """Steps and values of one curve, as the log has them."""

    steps: list[int]
    values: list[float]


def read_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Sort the rows of a log into curves: panel -> curve -> its points; what the log has nothing of is left out."""
    panels: dict[str, dict[str, Curve]] = {}
    for panel, curves in CURVES.items():
        for curve, (kind, name) in curves.items():
            if kind == "train" and name != "lr":
                points = training_windows(rows, name)
            else:
                known = [row for row in rows if row["kind"] == kind and isinstance(row.get(name), int | float)]
                points = [(row["step"], row[name]) for row in known]
            if points:
                steps, values = zip(*points, strict=True)
                panels.setdefault(panel, {})[curve] = Curve(list(steps), list(values))
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
    left, right, above, below, gap, legend = 0.42, 0.10, 0.24, 0.26, 0.02, 0.24
    each = (width - across * (left + right)) / across
    height = max(0.7 * each, 0.8)
    lines = -(-len(panels) // across)
    of_mixed = " and ".join(TRAINING_METRICS[name].label for name in ("mixed_accuracy", "label_shift"))
    notes = ("over the optimizer step", f"{of_mixed}: of training batches as they were mixed")
    steps = [step for curves in panels.values() for curve in curves.values() for step in curve.steps]
    first, last = min(steps), max(steps)
    margin = 0.04 * (last - first) or 0.5
    page = Page(width, legend + lines * (above + height + below) + (lines - 1) * gap, notes)
    drawn = {}
    for number, (title, curves) in enumerate(panels.items()):
        row, column = divmod(number, across)
        x = column * (left + each + right) + left
        y = legend + row * (above + height + below + gap) + above
        axes = page.axes(x, y, each, height)
        axes.set_axis_on()
        _draw_curves(axes, title, curves)
        axes.set_xlim(first - margin, last + margin)
        drawn |= dict(zip(curves, axes.lines, strict=True))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (MARGIN / width, 1 - 0.05 / page.height)}
    names = [name for name in LOOKS if name in drawn]
    handles = [drawn[name] for name in names]
    page.figure.legend(handles, names, ncols=3, borderaxespad=0, borderpad=0.2, columnspacing=1.4, **place)
    return page.figure


def _draw_curves(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    axes.set_title(title, pad=4)
    for name, curve in curves.items():
        look: dict[str, Any] = LOOKS[name] | (
            {"marker": "."} if len(curve.steps) == 1 else {}
        )  # a line of one point is not seen
        axes.plot(curve.steps, curve.values, label=name, **look)
    axes.yaxis.set_major_formatter(FuncFormatter(_share if title in SHARES else _number))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _share(value: float, _: int) -> str:
    return f"{100 * value:.4g}%"


def _number(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
