"""Temperature scaling: divide logits by a number so that confidence matches accuracy."""

import math

import torch
from torch import Tensor

from transmix.evaluation.accumulators import check_batch, sum_dtype, sum_tensor

COLDEST, HOTTEST = 0.01, 100.0
"""Limits of the search: where every answer is right, there is no best temperature, since colder is always better."""


class Temperature:
    """Collects logits, and fits the temperature.

        T = argmin over T of mean over samples of (log sum_k exp(z_k / T) - z_label / T)

    Memory: 4 * K bytes per sample on the device, because it keeps the logits; 100 MB for 25,000 samples of 1,000
        classes,
    divided over the processes.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017, arXiv 1706.04599), section 4.2.

    Args:
        num_classes: K.
        device: device of the logits.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes, self.device = num_classes, torch.device(device)
        self.batches: list[tuple[Tensor, Tensor]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
        self.batches.append((logits.float(), labels))

    def fit(self) -> float:
        """Return T between 0.01 and 100; nan if a logit is not finite or there is no sample.

        Every process must call it, also one without samples.
        """
        # The loss is convex in 1 / T: take Newton's steps, or halve the bracket where a step would leave it, until the
        # sign of the slope is known to the last digits.
        low, high = 1 / HOTTEST, 1 / COLDEST
        inverse = 1.0
        if not all(map(math.isfinite, self.loss(1.0))):
            return math.nan
        if self.loss(low)[1] >= 0:
            return HOTTEST
        if self.loss(high)[1] <= 0:
            return COLDEST
        for _ in range(100):
            _, slope, curvature = self.loss(inverse)
            low, high = (low, inverse) if slope > 0 else (inverse, high)
            if slope == 0 or high - low < 1e-12 * high:
                break
            newton = inverse - slope / curvature if curvature > 0 else low
            step = newton if low < newton < high else (low + high) / 2
            if abs(step - inverse) < 1e-12 * inverse:
                break
            inverse = step
        return 1 / inverse if self.loss(inverse)[0] <= self.loss(1.0)[0] else 1.0

    def loss(self, inverse: float) -> tuple[float, float, float]:
        """Return the mean cross-entropy at temperature 1 / `inverse`, and its slope and curvature in `inverse`."""
        sums = torch.zeros(4, dtype=sum_dtype(self.device), device=self.device)
        for logits, labels in self.batches:
            logits = logits.to(sums.dtype)
            logits = logits - logits.amax(dim=1, keepdim=True)
            own = logits.gather(1, labels[:, None])[:, 0]
            scaled = inverse * logits
            probabilities = scaled.softmax(dim=1)
            mean = (probabilities * logits).sum(dim=1)
            spread = (probabilities * (logits - mean[:, None]).square()).sum(dim=1)
            nats = scaled.logsumexp(dim=1) - inverse * own
            ones = torch.ones_like(own)
            sums += torch.stack([nats, mean - own, spread, ones]).sum(dim=1)
        sum_tensor(sums)
        loss, slope, curvature = (sums[:3] / sums[3]).tolist()
        return loss, slope, curvature
