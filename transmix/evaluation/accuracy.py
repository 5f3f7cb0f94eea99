"""How often the right class is the highest, or among the five highest."""

from collections.abc import Iterator

import torch
from torch import Tensor

from transmix.evaluation.accumulate import check_batch, finite_rows, top_classes


class Accuracy:
    """Top-1 and top-5 accuracy, as fractions in 0..1.

        top_k = |{samples whose label is among the k highest logits}| / |{samples}|

    With fewer than five classes 'top5' is top-K, that is 1. Among equal logits the order of `torch.topk`
    decides. A row with a non-finite logit counts as wrong.

    Args:
        num_classes: K.
        device: Where the counts live.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.hits = torch.zeros(2, dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        hit = (top_classes(logits) == labels[:, None]) & finite_rows(logits)[:, None]
        self.hits += torch.stack([hit[:, 0].sum(), hit.sum()])
        self.count += len(labels)

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'top1' and 'top5'; nan if no sample came."""
        top1, top5 = (self.hits.cpu().double() / self.count.cpu()).tolist()
        yield "top1", top1
        yield "top5", top5
