"""The table of metrics: what is measured of a model on labelled images, how it is called and shown.

A package adds one by the entry point `metric.NAME`: a `Metric` with an accumulator, which every evaluation then
updates, in training too; `NAME` (and `ema_NAME`) stands in logs, comparisons, reports and what `evaluate` prints.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from transmix import plugins


class Accumulator(Protocol):
    """Sums over batches, in tensors on the device; see `transmix.evaluation.accumulators`."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1; nothing is read back."""
        ...

    def compute(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of the sums."""
        ...


@dataclass(frozen=True)
class Metric:
    """How a number is called and shown, multiplied by `factor`, with `decimals` and `unit`, and how it is measured.

    Attributes:
        label: in headings.
        factor: 100 where a share is shown in percent.
        decimals: digits after the point.
        unit: "%", "nats", "s", ...
        accumulator: (number of classes, device) -> what is updated with every batch and yields the metric by its
            name. None: one of ours, which others yield.
    """

    label: str
    factor: float = 1.0
    decimals: int = 2
    unit: str = ""
    accumulator: Callable[[int, torch.device], Accumulator] | None = None


METRICS = {
    "top1": Metric("top-1", 100, unit="%"),
    "top5": Metric("top-5", 100, unit="%"),
    "loss": Metric("NLL", 1, 3, "nats"),
    "calibration_error": Metric("calibration error", 100, unit="%"),
}
"""Name -> metric, of those that every evaluation measures."""


def added_metrics() -> dict[str, Metric]:
    """Return the metrics of installed packages.

    Raises:
        UnknownNameError: one cannot be imported, or has a name that is taken.
    """
    return {name: plugins.find("metric", METRICS, name) for name in plugins.added()["metric"]}


def in_log(name: str) -> str:
    """Return what the log calls a metric of validation images: there, "loss" is that of training."""
    return "val_loss" if name == "loss" else name
