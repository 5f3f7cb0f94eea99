"""Losses and accuracy of a mixed batch: logits and what mixing made, in; a number, out."""

from torch import Tensor
from torch.nn import functional as F

from transmix.mixing.mixed import Mixed

REDUCTIONS = ("mean", "sum", "none")


class MixedCrossEntropy:
    """Cross-entropy against a mixed label, weighed PER SAMPLE, without building a (B, K) target.

        loss_i = lam_i * CE(logits_i, own label) + (1 - lam_i) * CE(logits_i, partner's label)

    with each label smoothed as y * (1 - s) + s / K. (Reducing each CE over the batch first and
    multiplying by lam after would train every sample with the batch's mean lam.)

    Args:
        smoothing: s in [0, 1).
        reduction: "mean" or "sum" over the batch, or "none" for (B,).

    Raises:
        ValueError: smoothing or reduction out of range.
    """

    def __init__(self, smoothing: float = 0.0, reduction: str = "mean"):
        self.smoothing = _check_smoothing(smoothing)
        self.reduction = _check_reduction(reduction)

    def __call__(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the loss, float32.

        Args:
            logits: (B, K), any float type.
            mixed: B rows.

        Raises:
            ValueError: logits of another batch size or number of classes.
        """
        _check_logits(logits, mixed)
        logits = logits.float()
        if mixed.labels.is_floating_point():
            targets = mixed.targets(logits.shape[1], self.smoothing)
            per_sample = -(targets * logits.log_softmax(1)).sum(1)
        else:
            # -log softmax = logsumexp - logit; nothing of size (B, K) but the logits is kept for backward.
            own = logits.gather(1, mixed.labels[:, None])[:, 0]
            partners = logits.gather(1, mixed.labels[mixed.partner][:, None])[:, 0]
            hit = mixed.lam * own + (1 - mixed.lam) * partners
            if self.smoothing:
                hit = (1 - self.smoothing) * hit + self.smoothing * logits.mean(1)
            per_sample = logits.logsumexp(1) - hit
        return _reduce(per_sample, self.reduction)


class MixedBCE:
    """Binary cross-entropy of every class against the mixed label: multi-label data, DeiT III.

    Args:
        smoothing: y * (1 - s) + s / K before mixing; none unless asked for.
        threshold: 1 where a target exceeds this, else 0 (DeiT III: 0.0). Such labels no longer say how much:
            TransMix changes nothing under it.
        reduction: "mean" or "sum" over batch and classes, or "none" for (B,), the mean over classes.

    Raises:
        ValueError: smoothing or reduction out of range.
    """

    def __init__(self, smoothing: float = 0.0, threshold: float | None = None, reduction: str = "mean"):
        self.smoothing = _check_smoothing(smoothing)
        self.threshold = threshold
        self.reduction = _check_reduction(reduction)

    def __call__(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the loss, float32. Shapes and errors as in `MixedCrossEntropy`."""
        _check_logits(logits, mixed)
        targets = mixed.targets(logits.shape[1], self.smoothing)
        if self.threshold is not None:
            targets = targets.gt(self.threshold).float()
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return losses.sum() if self.reduction == "sum" else _reduce(losses.mean(1), self.reduction)


def mixed_accuracy(logits: Tensor, mixed: Mixed) -> Tensor:
    """Return the share of the mixed label that the top prediction hits, a scalar in [0, 1].

        mean of lam * [prediction = own class] + (1 - lam) * [prediction = partner's class]

    Args:
        logits: (B, K).
        mixed: B rows with integer labels.

    Raises:
        ValueError: float labels, which have no single class to hit.
    """
    _check_logits(logits, mixed)
    if mixed.labels.is_floating_point():
        raise ValueError("mixed_accuracy needs integer labels; float labels have no single class to hit")
    predicted = logits.argmax(1)
    own, partners = predicted == mixed.labels, predicted == mixed.labels[mixed.partner]
    return (mixed.lam * own + (1 - mixed.lam) * partners).mean()


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return per_sample
    return per_sample.mean() if reduction == "mean" else per_sample.sum()


def _check_logits(logits: Tensor, mixed: Mixed) -> None:
    if logits.ndim != 2 or len(logits) != len(mixed.labels):
        raise ValueError(f"logits must be ({len(mixed.labels)}, K), not {tuple(logits.shape)}")


def _check_smoothing(smoothing: float) -> float:
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
    return smoothing


def _check_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    return reduction
