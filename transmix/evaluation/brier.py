"""How far the probabilities are from the truth, squared."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.evaluation.accumulate import check_batch, finite_rows, sum_dtype


class BrierScore:
    """Multi-class Brier score, in 0..2, lower is better.

        score = mean over samples of sum_k (p_k - [k = label])^2

    p is the softmax of the logits. This is Brier's own definition (Monthly Weather Review, 1950); for two classes it
    is twice the one-column form that is also in use. A row with a non-finite logit makes the score nan.

    Args:
        num_classes: K.
        device: Where the sums live.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.total = torch.zeros((), dtype=sum_dtype(device), device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        probabilities = logits.to(self.total.dtype).softmax(dim=1)
        probabilities = probabilities.masked_fill(~finite_rows(logits)[:, None], torch.nan)
        self.total += (probabilities - F.one_hot(labels, self.num_classes)).square().sum()
        self.count += len(labels)

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'brier_score'; nan if no sample came."""
        yield "brier_score", float(self.total / self.count)
