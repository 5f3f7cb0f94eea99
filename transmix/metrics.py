"""The table of metrics: what is measured of a model or a run, how it is called, written and read.

Logs, reports, comparisons, curves, model cards and `transmix evaluate` take labels from here and nowhere else.

A package adds a metric by the entry point `metric.NAME`: a `Metric` with an accumulator, which every evaluation then
updates, in training too; `NAME` (and `ema_NAME`) stands in logs, comparisons, reports and what `evaluate` prints.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from transmix import plugins

NONE = "–"
"""What stands where there is no number."""


class Accumulator(Protocol):
    """Sums over batches, in tensors on the device; see `transmix.evaluation.accumulate`."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1; nothing is read back."""
        ...

    def compute(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of the sums."""
        ...


@dataclass(frozen=True)
class Metric:
    """How a number is called and written: multiplied by `factor`, with `decimals` and `unit`.

    Attributes:
        label: name for people.
        factor: 100 where a share is shown in percent.
        decimals: digits after the point.
        unit: "%", "nats", "s", ...
        accumulator: (number of classes, device) -> what is updated with every batch and yields the metric by its
            name. None: not measured by an accumulator of its own.
        better: which way is better; None: neither.
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
        """The unit of a difference: of percentages, points."""
        return "points" if self.unit == "%" else self.unit

    def write(self, value: Any, unit: bool = True) -> str:
        """Write a value: 0.9194 -> '91.94 %'; without its unit '91.94'; what is no finite number in words."""
        thousands = "," if unit else ""
        text = written(value, lambda real: f"{self.factor * real:{thousands}.{self.decimals}f}")
        return f"{text} {self.unit}" if unit and self.unit and text[-1].isdigit() else text

    def write_difference(self, value: float | None) -> str:
        """Write a difference with its sign and no unit: '+1.20', '−0.30'."""
        return written(value, lambda real: f"{self.factor * real:+.{self.decimals}f}".replace("-", "−"))


def written(value: Any, write: Callable[[float], str]) -> str:
    """Write a number if it is one; what is none, or not finite, is said."""
    if type(value) not in (int, float):
        return NONE
    return write(value) if math.isfinite(value) else "not a number" if math.isnan(value) else "infinite"


def _share(label: str, better: Literal["higher", "lower"] | None, meaning: str, unit: str = "%") -> Metric:
    return Metric(label, 100, unit=unit, better=better, meaning=meaning)


METRICS = {
    "top1": _share("top-1", "higher", "share of validation images whose most likely class is right"),
    "top5": _share("top-5", "higher", "the same among the five most likely; 100 % with five classes or fewer"),
    "loss": Metric("NLL", 1, 3, "nats", better="lower", meaning="cross-entropy of validation images"),
    "calibration_error": _share(
        *("calibration error", "lower"),
        "mean gap of confidence and accuracy over 15 bins; 0 is best: 80 % sure, right 80 % of the time",
    ),
}
"""Name -> metric, of those that every evaluation measures."""

MIXED_LOSS = "cross-entropy; while images are mixed that of training is of mixed labels, and stays higher"
SHIFT = "how far the label rule moved a pasted box’s label from the share of its area, on average"

TRAINING_METRICS = {
    "loss": Metric("training loss", 1, 3, "nats", better="lower", meaning=MIXED_LOSS),
    "mixed_accuracy": _share("mixed accuracy", "higher", "on mixed training images, each label by its weight"),
    "label_shift": _share("label shift", None, SHIFT, "points"),
    "empty_boxes": _share("empty boxes", None, "boxes whose evidence is less than a tenth of their area's share"),
    "lr": Metric("learning rate", decimals=6, meaning="size of the optimizer’s steps"),
    "images_per_second": Metric("speed", 1, 0, "images/s", better="higher", meaning="of training, without evaluation"),
    "seconds": Metric("training time", 1, 0, "s", better="lower", meaning="of the training steps, without evaluation"),
}
"""Name in the log -> metric, of training itself."""

FIGURES: dict[str, dict[str, Metric]] = {
    "calibration": {
        "calibration_error_equal_mass": _share("calibration error, equal mass", "lower", "bins of equally many images"),
        "rms_calibration_error": _share("RMS calibration error", "lower", "root of the mean squared gap over the bins"),
        "aurra": _share("AURRA", "higher", "accuracy of the n most confident images, mean over n"),
        "brier_score": Metric("Brier score", 1, 4, better="lower", meaning="squared distance from the one-hot label"),
        "calibration_error_after": _share("calibration error after temperature scaling", "lower", "on half the images"),
    },
    "occlusion": {
        "random": _share("top-1 without random patches", "higher", "patches dropped at random"),
        "salient": _share("top-1 without the salient patches", "higher", "the most attended patches dropped"),
        "non_salient": _share("top-1 without the other patches", "higher", "the least attended patches dropped"),
    },
    "shuffle": {"top1": _share("top-1 on shuffled patches", "higher", "an image's patches change places")},
    "shifts": {
        "top1": METRICS["top1"],
        "mCE": _share("mCE", "lower", "error over the baseline's, mean over fifteen corruptions"),
        "aupr": _share("AUPR", "higher", "precision over recall of telling outliers by their low confidence"),
    },
    "attention-quality": {
        "jaccard": _share("attention: Jaccard", "higher", "patches with 60 % of the attention against the object"),
        "pointing": _share("attention: pointing", "higher", "the patch with most attention holds the object"),
        "localisation": _share("attention: localisation", "higher", "the box of the map overlaps the object's by half"),
        "own_over_other": Metric(
            "attention: own object over another's", better="higher", meaning="1: where it looks ignores the image"
        ),
        "explained_by_position": _share("attention explained by position", "lower", "100 %: the same map for all"),
    },
    "label-truth": {
        f"error_{rule}": Metric(f"label error {by}", 1, 3, better="lower", meaning="mean distance from what is visible")
        for rule, by in (("area", "by area"), ("attention", "by attention"), ("mean", "by their mean"))
    },
}
"""Suite -> name in it -> metric, of the figures that are printed; of a list, the value at `AT`."""

AT = {"occlusion": ("ratios", 0.5), "shuffle": ("grids", 4)}
"""Suite -> (the list that its other lists run along, the entry that is printed, or the nearest)."""


def added_metrics() -> dict[str, Metric]:
    """Return the metrics of installed packages.

    Raises:
        UnknownNameError: one cannot be imported, or has a name that is taken.
    """
    return {name: plugins.find("metric", METRICS, name) for name in plugins.added()["metric"]}


def in_log(name: str) -> str:
    """Return what the log calls a metric of validation images: there, "loss" is that of training."""
    return "val_loss" if name == "loss" else name


def log_metrics() -> dict[str, Metric]:
    """Return name in the log -> metric: of the model, of the EMA ("ema_..."), and of training."""
    model = {in_log(name): metric for name, metric in (METRICS | added_metrics()).items()}
    ema = {f"ema_{name}": replace(metric, label=f"EMA {metric.label}") for name, metric in model.items()}
    return {"loss": TRAINING_METRICS["loss"]} | model | ema | TRAINING_METRICS


def headlines(suite: str | None, found: Mapping[str, Mapping[str, Any]]) -> list[tuple[Metric, dict[str, Any]]]:
    """Return the figures that are printed of a suite, each with its value by weights; of a package's, every number.

    Args:
        suite: its name; None: the scores of every evaluation.
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
                index = min(
                    range(len(first[along])), key=lambda one, at=at, entries=first[along]: abs(entries[one] - at)
                )
                values = {weights: value and value[index] for weights, value in values.items()}
                label += f", {along.removesuffix('s')} {first[along][index]:g}"
            if all(type(value) in (int, float, type(None)) for value in values.values()):
                figures.append((replace(metric, label=label), values))
    return figures
