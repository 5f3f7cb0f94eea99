"""Where lines, bands and ticks of the page's figures stand: plain numbers, which the template draws as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transmix.compare.comparison import Comparison
from transmix.compare.groups import Group
from transmix.compare.statistics import Difference
from transmix.metrics import Metric, log_metrics
from transmix.runs.read import RunRecord, number

WIDTH, HEIGHT = 480, 260  # of a figure, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 26  # around the axes
ROW = 46  # of a difference: its name, and below it the line


class Tick(NamedTuple):
    """A mark on an axis: its place and its text."""

    at: float
    text: str


class Series(NamedTuple):
    """A group's curve: SVG paths of the mean, of the band around it (empty for one seed) and of unfinished runs."""

    group: int
    line: str
    band: str
    unfinished: tuple[str, ...]
    last: str


class Plot(NamedTuple):
    """A figure of curves over the epoch."""

    title: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    series: tuple[Series, ...]


class Bar(NamedTuple):
    """One difference: its dots, its mean, and the interval if there is one."""

    name: str
    y: float
    dots: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


class Bars(NamedTuple):
    """A figure of differences, one row each, around a line at 0."""

    height: float
    zero: float
    x: tuple[Tick, ...]
    rows: tuple[Bar, ...]


@dataclass(frozen=True)
class _Axis:
    """Maps values from low..high to SVG units from start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def inside(self, value: float) -> float:
        """As a call, but a value beyond the axis lies on its end."""
        return self(min(max(value, self.low), self.high))


def curve_plots(comparison: Comparison) -> list[Plot]:
    """Return the curves: scores in all epochs and in the last third, where differences show, and losses."""
    names = ["ema_top1", "top1"] if comparison.score == "ema_top1" else ["top1"]
    loss = "ema_val_loss" if comparison.score == "ema_top1" else "val_loss"
    plots, metrics = [], log_metrics()
    for name in [*names, loss, "loss"]:
        plots.append(_curves(comparison.groups, name, metrics[name], 0.0))
        if name in names:
            plots.append(_curves(comparison.groups, name, metrics[name], 2 / 3))
    return [plot for plot in plots if plot is not None]


def difference_bars(comparison: Comparison) -> Bars | None:
    """Return the differences of the compared score; None if there are none."""
    metric = comparison.metrics[comparison.score]
    found = [(one.group, one.baseline, one.scores[comparison.score]) for one in comparison.compared]
    if not found:
        return None
    ends = [metric.factor * end for _, _, one in found for end in _reach(one)]
    margin = 0.06 * (max(ends) - min(ends)) or 0.1
    axis = _Axis(min(ends) - margin, max(ends) + margin, 12, WIDTH - 12)

    def place(value: float) -> float:
        return axis.inside(metric.factor * value)

    rows = tuple(
        Bar(
            f"{group} − {baseline}",
            22 + ROW * index,
            tuple(map(place, one.each)),
            place(one.mean),
            None if one.low is None else place(one.low),
            None if one.high is None else place(one.high),
        )
        for index, (group, baseline, one) in enumerate(found)
    )
    ticks = tuple(Tick(axis(value), f"{value:+g}".replace("-", "−") if value else "0") for value in _ticks(axis, 5))
    return Bars(ROW * len(rows) + 26, axis(0), ticks, rows)


def _reach(found: Difference) -> list[float]:
    """Return what must be seen of a difference: 0, every seed, and the interval."""
    return [0.0, *found.each, *(end for end in (found.low, found.high) if end is not None)]


def _curves(groups: Sequence[Group], name: str, metric: Metric, skip: float) -> Plot | None:
    """Draw one value of the log over the epoch, the first `skip` of the epochs left out; None if nobody has it."""
    known = {id(run): _points(run, name, metric.factor) for group in groups for run in group.runs}
    last = max((epoch for points in known.values() for epoch in points), default=0)
    first = 1 + math.floor(skip * last)
    shown = {run: {e: v for e, v in points.items() if e >= first} for run, points in known.items()}
    values = [value for points in shown.values() for value in points.values()]
    if not values or (skip and last - first < 2):
        return None
    room = 0.05 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
    x = _Axis(first - 0.3, last + 0.3, LEFT, WIDTH - RIGHT)
    y = _Axis(min(values) - room, max(values) + room, HEIGHT - BOTTOM, TOP)
    series = []
    for index, group in enumerate(groups):
        finished = [shown[id(run)] for run in group.finished]
        epochs = sorted(set.intersection(*map(set, finished))) if finished else []
        each = {epoch: [points[epoch] for points in finished] for epoch in epochs}
        means = [(epoch, math.fsum(found) / len(found)) for epoch, found in each.items()]
        up = [(epoch, max(found)) for epoch, found in each.items()]
        down = [(epoch, min(found)) for epoch, found in reversed(each.items())]
        rest = [list(shown[id(run)].items()) for run in group.runs if not run.finished]
        series.append(
            Series(
                index,
                _path(means, x, y),
                _path(up + down, x, y) + "Z" if len(finished) > 1 and len(epochs) > 1 else "",
                tuple(_path(points, x, y) for points in rest if points),
                f"{means[-1][1]:.{metric.decimals}f} {metric.unit} after epoch {means[-1][0]}" if means else "",
            )
        )
    title = f"{metric.label}, {metric.unit}" + (f", from epoch {first}" if skip else "")
    x_ticks = tuple(Tick(x(e), f"{e:g}") for e in _ticks(x, 6) if e == int(e) and e >= first)
    return Plot(title, x_ticks, tuple(Tick(y(v), f"{v:.6g}") for v in _ticks(y, 5)), tuple(series))


def _points(run: RunRecord, name: str, factor: float) -> dict[int, float]:
    rows = [row for row in run.epochs if None not in (number(row.get(name)), number(row.get("epoch")))]
    return {row["epoch"]: factor * row[name] for row in rows}


def _path(points: Sequence[tuple[float, float]], x: Callable, y: Callable) -> str:
    if len(points) == 1:  # a line of no length, which round caps show as a dot
        points = [*points, points[0]]
    return "M" + "L".join(f"{x(one)} {y(two)}" for one, two in points) if points else ""


def _ticks(axis: _Axis, about: int) -> list[float]:
    """Return round numbers on an axis, about so many: multiples of 1, 2 or 5 times a power of ten."""
    span = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= about)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]
