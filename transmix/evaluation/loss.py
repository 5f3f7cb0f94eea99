"""The mean cross-entropy, and whether the logits are numbers at all."""

from collections.abc import Iterator

import torch
from torch import Tensor

from transmix.evaluation.accumulate import check_batch, finite_rows, sum_dtype


class CrossEntropy:
    """Mean cross-entropy in nats over all samples, without label smoothing.

        loss = mean over samples of (log sum_k exp(z_k) - z_label)

    Logits are brought to float32 whatever type they come in. A row with a non-finite logit makes the loss
    nan, and 'nonfinite_logits' says how many there are: such a model must not pass with a score of the rest.

    Args:
        num_classes: K.
        device: Where the sums live.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.total = torch.zeros((), dtype=sum_dtype(device), device=device)
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        finite = finite_rows(logits)
        # not F.cross_entropy: that takes a label of -100 for "ignore" and lowers the mean without a word
        losses = -logits.float().log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        self.total += losses.masked_fill(~finite, torch.nan).sum(dtype=self.total.dtype)
        self.nonfinite += (~finite).sum()
        self.count += len(labels)

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'loss', nan if no sample came, and 'nonfinite_logits', a number of rows."""
        yield "loss", float(self.total / self.count)
        yield "nonfinite_logits", int(self.nonfinite)
