"""Measures that need every sample's confidence, sorted: calibration errors and AURRA.

Samples of equal confidence get their mean accuracy, so that no result depends on the order of the samples.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from transmix.evaluation.accumulators import check_batch, confidence_and_hits, gather_rows

BINS = 15
"""Equal bins of confidence, or of samples (Guo et al., ICML 2017)."""

SAMPLES_A_BIN = 100
"""Samples in a bin of the RMS calibration error (Hendrycks et al., CVPR 2021)."""


class Confidences:
    """Confidence and correctness of every sample, and the measures computed from them.

    Confidence is the highest softmax probability, in float32. A row with a non-finite logit makes every result nan.

    These measures cannot be computed from sums. Memory: 8 bytes a sample on the device, 0.4 MB for 50,000; about 50
    bytes a sample of all processes while they are sorted, on every process.

    Args:
        num_classes: K.
        device: device of the values, also used to exchange them between processes.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.rows = [torch.empty(0, 2, device=device)]

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float, labels (B,) int64 in 0..K-1."""
        check_batch(logits, labels, self.num_classes)
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
