"""The accumulators of one evaluation: accuracy, cross-entropy, Brier score, calibration error and confusion.

An accumulator keeps sums in tensors on the device. `update(logits, labels)` adds a batch and reads nothing back to the
host; `compute()` reads the sums and yields (name, value) pairs. The state is sums alone, so batches of any size give
the same result as one large batch, and so do several processes (`sum_over_ranks`).
"""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

AnyAccumulator = TypeVar("AnyAccumulator")


class Tally:
    """What is taken of every batch: the number of images, a sum over them, and what a kind adds.

    Args:
        num_classes: K.
        device: device of the sums.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.total = torch.zeros((), dtype=sum_dtype(device), device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1. Nothing looks at their values here.

        Raises:
            ValueError: logits are not (B, K), or labels not (B,).
            TypeError: logits are not floating point, or labels not int64.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or labels.shape != logits.shape[:1]:
            shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"expected logits (B, {self.num_classes}) and labels (B,), got {shapes}")
        if not logits.is_floating_point() or labels.dtype != torch.int64:
            raise TypeError(f"expected float logits and int64 labels, got {logits.dtype} and {labels.dtype}")
        self.count += len(labels)
        self._add(logits, labels)

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        raise NotImplementedError


class Accuracy(Tally):
    """Top-1 and top-5 accuracy, as fractions in 0..1.

        top_k = |{samples whose label is among the k highest logits}| / |{samples}|

    With fewer than five classes 'top5' is 1. Ties are broken by the order of `torch.topk`. A row with a non-finite
    logit counts as wrong.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_classes, device)
        self.hits = self.count.new_zeros(2)

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        hit = (top_classes(logits) == labels[:, None]) & finite_rows(logits)[:, None]
        self.hits += torch.stack([hit[:, 0].sum(), hit.sum()])

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'top1' and 'top5'; nan without samples."""
        yield from zip(("top1", "top5"), (self.hits.cpu().double() / self.count.cpu()).tolist(), strict=True)


class CrossEntropy(Tally):
    """Mean cross-entropy in nats over all samples, without label smoothing.

        loss = mean over samples of (log sum_k exp(z_k) - z_label)

    Logits are converted to float32. A row with a non-finite logit makes the loss nan, and 'nonfinite_logits' counts
    such rows, so that a broken model does not get a normal score.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_classes, device)
        self.nonfinite = self.count.clone()

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        finite = finite_rows(logits)
        # not F.cross_entropy: that takes a label of -100 for "ignore" and lowers the mean without a word
        losses = -logits.float().log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        self.total += losses.masked_fill(~finite, torch.nan).sum(dtype=self.total.dtype)
        self.nonfinite += (~finite).sum()

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'loss', nan without samples, and 'nonfinite_logits', a number of rows."""
        yield "loss", float(self.total / self.count)
        yield "nonfinite_logits", int(self.nonfinite)


class BrierScore(Tally):
    """Multi-class Brier score, in 0..2, lower is better.

        score = mean over samples of sum_k (p_k - [k = label])^2

    p is the softmax of the logits. This is Brier's own definition (Monthly Weather Review, 1950); for two classes it
    is twice the one-column form that is also in use. A row with a non-finite logit makes the score nan.
    """

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        probabilities = logits.to(self.total.dtype).softmax(dim=1)
        probabilities = probabilities.masked_fill(~finite_rows(logits)[:, None], torch.nan)
        self.total += (probabilities - F.one_hot(labels, self.num_classes)).square().sum()

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'brier_score'; nan without samples."""
        yield "brier_score", float(self.total / self.count)


class CalibrationError(Tally):
    """Expected calibration error, a fraction in 0..1: the mean gap between confidence and accuracy.

    Samples are sorted by confidence (the highest softmax probability) into M equal bins ((m-1)/M, m/M], and

        ECE = sum over bins m of (n_m / n) * |accuracy_m - mean confidence_m|

    A row with a non-finite logit makes the error nan.

    Source: Naeini et al., AAAI 2015; bins and M = 15 as in Guo et al., ICML 2017 (arXiv 1706.04599). Differs
    from torchmetrics 1.9 for a confidence on the edge of a bin: its bins are [lo, hi), and a confidence of
    exactly 1, which float32 reaches once the logits are some 17 apart, has its own bin there.

    Args:
        num_classes: K.
        device: device of the sums.
        bins: M.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", bins: int = 15) -> None:
        super().__init__(num_classes, device)
        self.images, self.hits = self.count.new_zeros(bins), self.count.new_zeros(bins)
        self.confidence = self.total.new_zeros(bins)

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        bins = len(self.hits)
        confidence, hit = confidence_and_hits(logits, labels)
        edges = torch.linspace(0, 1, bins + 1, device=logits.device)
        # nan sorts behind the last edge: the clamp puts it in the last bin, whose sum it makes nan, and so the result
        where = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
        self.images.index_add_(0, where, torch.ones_like(where))
        self.hits.index_add_(0, where, hit.long())
        self.confidence.index_add_(0, where, confidence.to(self.confidence.dtype))

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield 'calibration_error'; nan without samples."""
        # n_m cancels: n_m * |accuracy_m - mean confidence_m| = |hits_m - sum of confidences_m|
        yield "calibration_error", float((self.hits - self.confidence).abs().sum() / self.images.sum())

    def reliability(self) -> dict[str, list[float]]:
        """Return for each of the M bins: 'count' of images, 'hits' (correct ones), 'confidence' (sum)."""
        return {"count": self.images.tolist(), "hits": self.hits.tolist(), "confidence": self.confidence.tolist()}


class Confusion(Tally):
    """Counts of (true class, predicted class), and from them the accuracy of every class.

        accuracy_k = counts[k, k] / |{samples of class k}|

    is a fraction in 0..1, and nan for a class without samples. A row with a non-finite logit predicts
    nothing: it is not in `counts` and counts as wrong for its class. K * (K + 1) int64 counts take 8 MB
    for 1,000 classes, and 3.8 GB for the 21,841 of ImageNet-21k.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_classes, device)
        self.cells = self.count.new_zeros(num_classes, num_classes + 1)

    @property
    def counts(self) -> Tensor:
        """The confusion matrix (K, K) int64: rows are the truth, columns the prediction."""
        return self.cells[:, :-1]

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        predicted = top_classes(logits)[:, 0].masked_fill(~finite_rows(logits), self.num_classes)
        # not bincount: on a GPU it reads the largest index back to the host
        cell = labels * (self.num_classes + 1) + predicted
        self.cells.view(-1).index_add_(0, cell, torch.ones_like(cell))

    def compute(self) -> Iterator[tuple[str, list[float] | Tensor]]:
        """Yield 'per_class_accuracy', a list of K, and 'confusion', the counts (K, K) on the CPU."""
        right, samples = self.counts.diagonal().cpu(), self.cells.sum(dim=1).cpu()
        yield "per_class_accuracy", (right.double() / samples).tolist()
        yield "confusion", self.counts.cpu()


def finite_rows(logits: Tensor) -> Tensor:
    """Return which rows of (B, K) logits are finite: (B,) bool."""
    return logits.isfinite().all(dim=1)


def top_classes(logits: Tensor, most: int = 5) -> Tensor:
    """Return the highest classes of every row, best first: (B, min(most, K)) int64."""
    # PyTorch leaves the order of equal logits open. Whatever needs the predicted class calls this, so that accuracy,
    # calibration and confusion agree on ties too; so fewer than five are the first of those five.
    return logits.float().topk(min(max(most, 5), logits.shape[1]), dim=1).indices[:, :most]


def confidence_and_hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest softmax probability of each row, (B,) float32, and whether its class is right, (B,) bool.

    The probability is nan for a row with a non-finite logit.
    """
    confidence = logits.float().softmax(dim=1).amax(dim=1).masked_fill(~finite_rows(logits), torch.nan)
    return confidence, top_classes(logits)[:, 0] == labels


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """Return the type for sums of real numbers: float64, or float32 on a device without float64."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def sum_over_ranks(accumulator: AnyAccumulator) -> AnyAccumulator:
    """Return a copy of an accumulator whose state is the sum over all processes.

    Every process must call it, even without samples. Without a process group it returns a plain copy.
    """
    # A copy, because all_reduce works in place: a second call on the accumulator itself would count twice.
    total = copy.copy(accumulator)
    for name, value in vars(accumulator).items():
        if isinstance(value, Tensor):
            setattr(total, name, sum_tensor(value.clone()))
    return total


def top1(accuracy: Accuracy) -> float:
    """Return the top-1 accuracy over all processes; every process must call it."""
    return dict(sum_over_ranks(accuracy).compute())["top1"]


def sum_tensor(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; return it."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of all processes, in the order of ranks, to every process.

    For values that must be sorted, so that sums are not enough. Every process must call it, even without rows.
    Without a process group it returns the rows as they are.
    """
    if not dist.is_initialized():
        return rows
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, rows.cpu())  # all_gather takes tensors of one shape alone
    return torch.cat(everyone).to(rows.device)
