"""Measures that need every sample: of its confidence, calibration errors and AURRA; of its logits, the temperature.

Samples of equal confidence get their mean accuracy, so that no result depends on the order of the samples.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from transmix.evaluation.accumulators import Tally, confidence_and_hits, gather_rows, sum_tensor

BINS = 15
"""Equal bins of confidence, or of samples (Guo et al., ICML 2017)."""

SAMPLES_A_BIN = 100
"""Samples in a bin of the RMS calibration error (Hendrycks et al., CVPR 2021)."""

COLDEST, HOTTEST = 0.01, 100.0
"""Limits of the search: where every answer is right, there is no best temperature, since colder is always better."""


class Confidences(Tally):
    """Confidence and correctness of every sample, and the measures computed from them.

    Confidence is the highest softmax probability, in float32. A row with a non-finite logit makes every result nan.

    These measures cannot be computed from sums. Memory: 8 bytes a sample on the device, 0.4 MB for 50,000; about 50
    bytes a sample of all processes while they are sorted, on every process.

    Args:
        num_classes: K.
        device: device of the values, also used to exchange them between processes.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_classes, device)
        self.rows = [torch.empty(0, 2, device=device)]

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        self.rows.append(torch.stack(confidence_and_hits(logits, labels), dim=1))

    def gathered(self) -> tuple[np.ndarray, np.ndarray]:
        """Return confidence (N,) float32 and hits (N,) bool of all processes. Every process must call it."""
        confidence, hits = gather_rows(torch.cat(self.rows)).cpu().numpy().T
        return confidence, hits.astype(bool)

    def compute(self) -> Iterator[tuple[str, float]]:
        """Yield the measures of this file, fractions in 0..1; nan if no sample came."""
        confidence, hits = self.gathered()
        if len(hits) == 0 or np.isnan(confidence).any():
            confidence, right = np.full(1, np.nan), np.full(1, np.nan)
        else:
            confidence, right = ascending(confidence, hits)
        width, mass, adaptive = equal_width(confidence), equal_mass(len(right)), equal_count(len(right))
        yield "calibration_error_equal_mass", mean_gap(*gaps(confidence, right, mass))
        yield "maximum_calibration_error", float(gaps(confidence, right, width)[1].max())
        yield "rms_calibration_error", root_mean_square_gap(*gaps(confidence, right, adaptive))
        yield "rms_calibration_error_published", published_rms(confidence, right)
        yield "aurra", aurra(right)


class Temperature(Tally):
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
        super().__init__(num_classes, device)
        self.batches: list[tuple[Tensor, Tensor]] = []

    def _add(self, logits: Tensor, labels: Tensor) -> None:
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
        sums = self.total.new_zeros(4)
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


def ascending(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort (N,) confidences, lowest first; return them with their accuracy in 0..1, float64, averaged over ties."""
    distinct, group = np.unique(confidence, return_inverse=True)
    samples = np.bincount(group, minlength=len(distinct))
    right = np.bincount(group, weights=hits, minlength=len(distinct)) / samples
    return np.repeat(distinct, samples).astype(np.float64), np.repeat(right, samples)


def equal_width(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return where bins ((m-1)/M, m/M] begin in N sorted confidences: (M,) int64."""
    edges = torch.linspace(0, 1, bins + 1)[:-1].numpy()  # float32, as in `CalibrationError`
    starts = np.searchsorted(confidence, edges, side="right")
    starts[0] = 0
    return starts


def equal_mass(samples: int, bins: int = BINS) -> np.ndarray:
    """Return the starts of M bins of equal size (up to one image): (M,) int64."""
    return np.arange(bins) * samples // bins


def equal_count(samples: int, count: int = SAMPLES_A_BIN) -> np.ndarray:
    """Return where bins of `count` samples begin; the last bin also takes the rest."""
    return np.arange(max(1, samples // count)) * count


def gaps(confidence: np.ndarray, right: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare confidence with accuracy in bins of sorted samples.

    Args:
        confidence: (N,) ascending.
        right: (N,) in 0..1.
        starts: (M,) where each bin begins; it ends where the next one begins. Empty bins are left out.

    Returns:
        For each bin, its fraction of the samples, and |accuracy - mean confidence|.
    """
    starts = np.unique(starts[starts < len(right)])
    samples = np.diff(starts, append=len(right))
    return samples / len(right), np.abs(np.add.reduceat(right - confidence, starts) / samples)


def mean_gap(share: np.ndarray, gap: np.ndarray) -> float:
    """Expected calibration error: sum of share * gap."""
    return float((share * gap).sum())


def root_mean_square_gap(share: np.ndarray, gap: np.ndarray) -> float:
    """RMS calibration error: the root of the sum of share * gap^2.

    With bins of 100 samples it is the measure of Hendrycks et al. (Deep Anomaly Detection with Outlier Exposure, ICLR
    2019, appendix; Natural Adversarial Examples, CVPR 2021).
    """
    return float(np.sqrt((share * gap**2).sum()))


def published_rms(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the RMS calibration error as the published code computes it, for comparison with published numbers.

    calibration_tools.py of hendrycks/natural-adv-examples omits the last bin (the most confident 100 to 199 samples)
    from the sum, but still divides by all samples. Nan with fewer than two bins.
    """
    share, gap = gaps(confidence, right, equal_count(len(right)))
    return root_mean_square_gap(share[:-1], gap[:-1]) if len(gap) > 1 else float("nan")


def aurra(right: np.ndarray) -> float:
    """Area under the response rate accuracy curve: the mean over n of the accuracy of the n most confident samples.

    Args:
        right: (N,) in 0..1, by ascending confidence.

    Source: Hendrycks et al., Natural Adversarial Examples (CVPR 2021, arXiv 1907.07174), and its code.
    """
    return float((np.cumsum(right[::-1]) / np.arange(1, len(right) + 1)).mean())
