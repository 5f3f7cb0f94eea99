"""Which class is taken for which, and how well each class is recognised."""

from collections.abc import Iterator

import torch
from torch import Tensor

from transmix.evaluation.accumulate import check_batch, finite_rows, top_classes


class Confusion:
    """Counts of (true class, predicted class), and from them the accuracy of every class.

        accuracy_k = counts[k, k] / |{samples of class k}|

    is a fraction in 0..1, and nan for a class without samples. A row with a non-finite logit predicts
    nothing: it is missing in `counts` and counts as wrong for its class. K * (K + 1) int64 counts take 8 MB
    for 1,000 classes, and 3.8 GB for the 21,841 of ImageNet-21k.

    Args:
        num_classes: K.
        device: Where the counts live.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.cells = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)

    @property
    def counts(self) -> Tensor:
        """The confusion matrix (K, K) int64: rows are the truth, columns the prediction."""
        return self.cells[:, :-1]

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        predicted = top_classes(logits)[:, 0].masked_fill(~finite_rows(logits), self.num_classes)
        # not bincount: on a GPU it reads the largest index back to the host
        cell = labels * (self.num_classes + 1) + predicted
        self.cells.view(-1).index_add_(0, cell, torch.ones_like(cell))

    def compute(self) -> Iterator[tuple[str, list[float] | Tensor]]:
        """Yield 'per_class_accuracy', a list of K, and 'confusion', the counts (K, K) on the CPU."""
        right, samples = self.counts.diagonal().cpu(), self.cells.sum(dim=1).cpu()
        yield "per_class_accuracy", (right.double() / samples).tolist()
        yield "confusion", self.counts.cpu()
