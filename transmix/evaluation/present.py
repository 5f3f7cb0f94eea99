"""Scores on images of only some of a model's classes: among these alone, and beside the run's own validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transmix.data.class_names import class_name
from transmix.evaluation.accumulators import Accuracy, CalibrationError, CrossEntropy, sum_over_ranks
from transmix.runs.read import read_run

NAME = "present-classes"
"""What these scores are called in the table of metrics and in the JSON."""


class AmongPresent:
    """Sums over batches of the logits of some classes alone.

    Args:
        present: m classes, ascending, of K.
        num_classes: K.
        device: Device of the logits.
    """

    def __init__(self, present: Sequence[int], num_classes: int, device: torch.device):
        self.columns = torch.tensor(list(present), dtype=torch.int64, device=device)
        self.place = torch.full((num_classes,), -1, dtype=torch.int64, device=device)
        self.place[self.columns] = torch.arange(len(present), device=device)
        count = len(present)
        self.accumulators = CrossEntropy(count, device), Accuracy(count, device), CalibrationError(count, device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K), labels (B,) int64, each one of the m classes."""
        logits, labels = logits[:, self.columns], self.place[labels]
        for accumulator in self.accumulators:
            accumulator.update(logits, labels)

    def compute(self) -> dict[str, Any]:
        """Return 'classes', m; 'loss', 'top1', 'top5' and 'calibration_error' among them, over all processes."""
        scores: dict[str, Any] = {"classes": len(self.columns)}
        for accumulator in self.accumulators:
            scores |= dict(sum_over_ranks(accumulator).compute())
        return {name: scores[name] for name in ("classes", "top1", "top5", "loss", "calibration_error")}


def own_accuracies(run: Path, step: int) -> tuple[dict[str, float], str]:
    """Return the accuracy of each class on a run's own validation images, of the weights that it evaluated last.

    Args:
        run: The run folder.
        step: Optimizer step of the weights that are compared with it.

    Returns:
        Class name in NFC -> accuracy in 0..1, without classes that have no image; and why it is empty.
    """
    found = read_run(run)
    if not found.finished or found.summary.get("step") != step:
        return {}, "known of a finished run's last checkpoint only"
    if found.confusion is None:
        return {}, found.problems.get("confusion.csv", "no confusion.csv")
    names, images, right, _ = found.confusion
    rows = zip(names, images.tolist(), right.tolist(), strict=True)
    return {class_name(name): correct / count for name, count, correct in rows if count}, ""


def class_gaps(
    here: Sequence[float], labels: np.ndarray, classes: Sequence[str], own: dict[str, float]
) -> list[dict[str, Any]]:
    """Return a row for each class with images, the largest loss against the run's own validation first.

    Args:
        here: K accuracies in 0..1, nan for a class without images.
        labels: (N,) int64, labels of the images.
        classes: K names.
        own: Class name -> accuracy on the run's own validation images.

    Returns:
        'class', 'images', 'accuracy', 'own_validation' and 'gap', their difference; None where unknown.
    """
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    rows: list[dict[str, Any]] = []
    for name, count, accuracy in zip(classes, counts, here, strict=True):
        known = own.get(class_name(name))
        gap = None if known is None or accuracy != accuracy else accuracy - known
        if count:
            rows.append({"class": name, "images": count, "accuracy": accuracy, "own_validation": known, "gap": gap})
    return sorted(rows, key=lambda row: 0.0 if row["gap"] is None else row["gap"])
