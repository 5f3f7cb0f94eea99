"""The table of metrics, `metrics.csv`: names, units and meanings of all values measured of a model or a run.

Logs, reports, comparisons, curves, model cards and `transmix evaluate` take their labels only from here.

A package adds a metric by the entry point `metric.NAME`: a `Metric` with an accumulator. Every evaluation updates it,
in
training too; `NAME` (and `ema_NAME`) appears in logs, comparisons, reports and the output of `evaluate`.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from transmix import plugins

NONE = "–"
"""What stands where there is no number."""


class Accumulator(Protocol):
    """Sums over batches, in tensors on the device; see `transmix.evaluation.accumulate`."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1; without device synchronisation."""
        ...

    def compute(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of the sums."""
        ...


@dataclass(frozen=True)
class Metric:
    """Name and number format of a metric: multiplied by `factor`, with `decimals` and `unit`.

    Without decimals, a fraction below 10 has two significant digits: 0.034, 4.3.

    Attributes:
        label: display name.
        factor: 100 to show a fraction in percent.
        decimals: digits after the point.
        unit: "%", "nats", "s", ...
        accumulator: (number of classes, device) -> an `Accumulator` that yields the metric by its name. None: the
            metric has no accumulator of its own.
        better: whether higher or lower is better; None: neither.
        meaning: one sentence, without a capital letter and full stop.
    """

    label: str
    factor: float = 1.0
    decimals: int = 2
    unit: str = ""
    accumulator: Callable[[int, torch.device], Accumulator] | None = None
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""

    @property
    def heading(self) -> str:
        """The label with the unit, for a column of bare numbers."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def difference_unit(self) -> str:
        """The unit of a difference; for percentages, points."""
        return "points" if self.unit == "%" else self.unit

    def write(self, value: Any, unit: bool = True) -> str:
        """Format a value: 0.9194 -> '91.94 %', or '91.94' without unit; missing and non-finite values become words."""
        thousands = "," if unit else ""
        few = not self.decimals and type(value) is float and 0 < abs(self.factor * value) < 9.95
        digits = "#.2g" if few else f"{thousands}.{self.decimals}f"
        text = written(value, lambda real: f"{self.factor * real:{digits}}")
        return f"{text} {self.unit}" if unit and self.unit and text[-1].isdigit() else text

    def write_difference(self, value: float | None) -> str:
        """Format a difference with sign, without unit: '+1.20', '−0.30'."""
        return written(value, lambda real: f"{self.factor * real:+.{self.decimals}f}".replace("-", "−"))


def written(value: Any, write: Callable[[float], str]) -> str:
    """Format a number; missing and non-finite values become words."""
    if type(value) not in (int, float):
        return NONE
    return write(value) if math.isfinite(value) else "not a number" if math.isnan(value) else "infinite"


def _table() -> dict[str, dict[str, Metric]]:
    metrics: dict[str, dict[str, Metric]] = {}
    with Path(__file__).with_name("metrics.csv").open(encoding="utf-8", newline="") as file:
        for of, name, label, factor, decimals, unit, better, meaning in islice(csv.reader(file), 1, None):
            metric = Metric(label, float(factor), int(decimals), unit, None, better or None, meaning)  # type: ignore[arg-type]
            metrics.setdefault(of, {})[name] = metric
    return metrics


FIGURES = _table()
"""Suite -> name in it -> metric, of the figures that are printed; of a list, the value at `AT`."""

METRICS = FIGURES.pop("evaluation")
"""Name -> metric, of those that every evaluation measures."""

TRAINING_METRICS = FIGURES.pop("training")
"""Name in the log -> metric, of training itself."""

AT = {"occlusion": ("ratios", 0.5), "shuffle": ("grids", 4)}
"""Suite -> (the list that its other lists run along, the entry that is printed, or the nearest)."""


def added_metrics() -> dict[str, Metric]:
    """Return the metrics of installed packages.

    Raises:
        UnknownNameError: a metric cannot be imported, or its name is taken.
    """
    return {name: plugins.find("metric", METRICS, name) for name in plugins.added()["metric"]}


def says_something(name: str, classes: int) -> bool:
    """Whether a score can differ between models of so many classes: with five or fewer, top-5 is always 100 %."""
    return not name.endswith("top5") or classes > 5


def in_log(name: str) -> str:
    """Return the log's name of a validation metric: in the log, "loss" is the training loss."""
    return "val_loss" if name == "loss" else name


def log_metrics() -> dict[str, Metric]:
    """Return name in the log -> metric: of the model, of the EMA ("ema_..."), and of training."""
    model = {in_log(name): metric for name, metric in (METRICS | added_metrics()).items()}
    ema = {f"ema_{name}": replace(metric, label=f"EMA {metric.label}") for name, metric in model.items()}
    return {"loss": TRAINING_METRICS["loss"]} | model | ema | TRAINING_METRICS


def headlines(suite: str | None, found: Mapping[str, Mapping[str, Any]]) -> list[tuple[Metric, dict[str, Any]]]:
    """Return the main scores of a suite with their values per set of weights; for an added suite, every number.

    Args:
        suite: name of the suite; None: the standard scores.
        found: weights ("model", "ema") -> name -> value, as a suite yields them.
    """
    names = dict.fromkeys(name for values in found.values() for name in values)
    known = METRICS | added_metrics() if suite is None else FIGURES.get(suite)
    if known is None:
        known = {name: Metric(name.replace("_", " "), decimals=4) for name in names}
    first, figures = next(iter(found.values())), []
    for figure, metric in known.items():
        for name in names:
            place, _, last = name.rpartition("/")  # 'shifts' puts the folder's name before each figure's
            if figure not in (name, last):
                continue
            label = f"{place}: {metric.label}" if place else metric.label
            values = {weights: of_weights.get(name) for weights, of_weights in found.items()}
            if suite in AT:
                along, at = AT[suite]
                index = np.abs(np.subtract(first[along], at)).argmin()
                values = {weights: value and value[index] for weights, value in values.items()}
                label += f", {along.removesuffix('s')} {first[along][index]:g}"
            if all(type(value) in (int, float, type(None)) for value in values.values()):
                figures.append((replace(metric, label=label), values))
    return figures
