"""Whether a model that says 80 % is right 80 % of the time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from transmix.evaluation.accumulate import check_batch, finite_rows, sum_dtype, top_classes


class CalibrationError:
    """Expected calibration error, a fraction in 0..1: the mean gap between confidence and accuracy.

    Samples are sorted by confidence (the highest softmax probability) into M equal bins ((m-1)/M, m/M], and

        ECE = sum over bins m of (n_m / n) * |accuracy_m - mean confidence_m|

    A row with a non-finite logit makes the error nan.

    Source: Naeini et al., AAAI 2015; bins and M = 15 as in Guo et al., ICML 2017 (arXiv 1706.04599). Differs
    from torchmetrics 1.9 for a confidence on the edge of a bin: its bins are [lo, hi), and a confidence of
    exactly 1, which float32 reaches once the logits are some 17 apart, has a bin of its own there.

    Args:
        num_classes: K.
        device: Where the sums live.
        bins: M.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", bins: int = 15) -> None:
        self.num_classes = num_classes
        self.images = torch.zeros(bins, dtype=torch.int64, device=device)
        self.hits = torch.zeros(bins, dtype=torch.int64, device=device)
        self.confidence = torch.zeros(bins, dtype=sum_dtype(device), device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        bins = len(self.hits)
        confidence = logits.float().softmax(dim=1).amax(dim=1).masked_fill(~finite_rows(logits), torch.nan)
        edges = torch.linspace(0, 1, bins + 1, device=logits.device)
        # nan sorts behind the last edge; the clamp puts it in the last bin, and from there it makes the
        # result nan
        where = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
        hit = top_classes(logits)[:, 0] == labels
        self.images.index_add_(0, where, torch.ones_like(where))
        self.hits.index_add_(0, where, hit.long())
        self.confidence.index_add_(0, where, confidence.to(self.confidence.dtype))

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'calibration_error'; nan if no sample came."""
        # n_m cancels: n_m * |accuracy_m - mean confidence_m| = |hits_m - sum of confidences_m|
        yield "calibration_error", float((self.hits - self.confidence).abs().sum() / self.images.sum())

    def reliability(self) -> dict[str, list[float]]:
        """Return what each of the M bins holds: 'count' of images, 'hits' among them, 'confidence', their sum."""
        return {
            "count": self.images.tolist(),
            "hits": self.hits.tolist(),
            "confidence": self.confidence.tolist(),
        }
