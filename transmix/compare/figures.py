"""The figures of the comparison's page: curves of the groups over the epoch, and differences with their intervals."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from transmix.compare.comparison import Comparison
from transmix.compare.groups import Group
from transmix.metrics import Metric, log_metrics
from transmix.runs.read import RunRecord, number
from transmix.visual.curves import Curve, curve_figure, swatch
from transmix.visual.html import inline_svg, series
from transmix.visual.intervals import Estimate, differences_figure
from transmix.visual.palette import LINES, ON_PAGE

DASHES = ("-", (0, (4, 2)), (0, (1, 2)), (0, (5, 2, 1, 2)), (0, (2, 2)), (0, (7, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)))


def curve_svgs(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Return (title, figure): scores in all epochs and in the last third, where differences show, and losses."""
    names = ["ema_top1", "top1"] if comparison.score == "ema_top1" else ["top1"]
    loss = "ema_val_loss" if comparison.score == "ema_top1" else "val_loss"
    metrics = log_metrics()
    wanted = [(name, metrics[name], skip) for name in names for skip in (0.0, 2 / 3)]
    wanted += [(name, metrics[name], 0.0) for name in (loss, "loss")]
    return [svg for one in wanted if (svg := _curves(comparison.groups, *one)) is not None]


def legend(comparison: Comparison) -> list[tuple[Markup, str]]:
    """Return a piece of each group's curve, and the group's name."""
    names = [group.name for group in comparison.groups]
    return [(inline_svg(swatch(_look(index)), name), name) for index, name in enumerate(names)]


def difference_svg(comparison: Comparison) -> Markup | None:
    """Return the differences of the compared score; None if there are none."""
    metric, found = comparison.metrics[comparison.score], {}
    for one in comparison.compared:
        score = one.scores[comparison.score]
        values = [None if value is None else metric.factor * value for value in (score.mean, score.low, score.high)]
        found[f"{one.group} − {one.baseline}"] = Estimate(*values, [metric.factor * each for each in score.each])  # type: ignore[arg-type]
    if not found:
        return None
    says = f"Differences of {metric.label} with their intervals; the numbers stand in the table below"
    return inline_svg(differences_figure(found, width=1.4 * ON_PAGE), says)


def _curves(groups: Sequence[Group], name: str, metric: Metric, skip: float) -> tuple[str, Markup] | None:
    """Draw one value of the log over the epoch, without the first `skip` of the epochs; None if no run has it."""
    points = {id(run): _points(run, name, metric.factor) for group in groups for run in group.runs}
    last = max((epoch for values in points.values() for epoch in values), default=0)
    first = 1 + math.floor(skip * last)
    points = {
        run: {epoch: value for epoch, value in values.items() if epoch >= first} for run, values in points.items()
    }
    if not any(points.values()) or (skip and last - first < 2):
        return None
    curves, looks, said = {}, {}, []
    for index, group in enumerate(groups):
        finished = [points[id(run)] for run in group.finished]
        epochs = sorted(set.intersection(*map(set, finished))) if finished else []
        each = [[values[epoch] for values in finished] for epoch in epochs]
        means = [math.fsum(values) / len(values) for values in each]
        band = (list(map(min, each)), list(map(max, each))) if len(finished) > 1 else ()
        at_end = f": {means[-1]:.{metric.decimals}f} {metric.unit} after epoch {epochs[-1]}" if epochs else ""
        drawn = {f"{index}": Curve(epochs, means, *band)} if epochs else {}
        unfinished = {f"{index} {run.seed}": points[id(run)] for run in group.runs if not run.finished}
        drawn |= {key: Curve(list(values), list(values.values())) for key, values in unfinished.items() if values}
        curves |= drawn
        looks |= {key: _look(index, series(index, group.name + at_end), key in unfinished) for key in drawn}
        said += [f"{group.name}{at_end}."] if epochs else []
    title = f"{metric.label}, {metric.unit}" + (f", from epoch {first}" if skip else "")
    figure = curve_figure(curves, looks=looks, ends=(first, last), width=1.25 * ON_PAGE)
    return title, inline_svg(figure, " ".join([f"{title} over the epoch.", *said]))


def _look(index: int, gid: str | None = None, unfinished: bool = False) -> dict[str, Any]:
    look = {"color": LINES[index % len(LINES)], "gid": gid, "solid_capstyle": "round", "dash_capstyle": "round"}
    how = {"linestyle": (0, (1, 3)), "linewidth": 0.8, "alpha": 0.7} if unfinished else {"linewidth": 1.4}
    return look | {"linestyle": DASHES[index % len(DASHES)]} | how


def _points(run: RunRecord, name: str, factor: float) -> dict[int, float]:
    rows = [row for row in run.epochs if None not in (number(row.get(name)), number(row.get("epoch")))]
    return {row["epoch"]: factor * row[name] for row in rows}
