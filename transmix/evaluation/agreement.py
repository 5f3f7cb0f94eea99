"""How well weights agree with the truth: mean error, rank correlation, and their 95 % intervals."""

import math

import numpy as np

Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""

Estimate = tuple[float, float, float]
"""Value, lower and upper end of its 95 % interval."""


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean of (n,) values with its normal interval; nan for no value, no interval (nan) for one."""
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, mean - half, mean + half


def rank_correlation(values: np.ndarray, truth: np.ndarray) -> Estimate:
    """Return Spearman's correlation of (n,) values and truth, ties sharing their mean rank; nan if either is constant.

    The interval is the normal one of Fisher's z, whose variance for ranks is (1 + r^2 / 2) / (n - 3).

    Source: Bonett and Wright, Sample size requirements for Pearson, Kendall and Spearman correlations
    (Psychometrika 2000).
    """
    from scipy.stats import rankdata  # scikit-learn brings it

    if len(values) < 4 or np.ptp(values) == 0 or np.ptp(truth) == 0:
        return math.nan, math.nan, math.nan
    found = float(np.corrcoef(rankdata(values), rankdata(truth))[0, 1])
    found = min(max(found, -1.0), 1.0)
    if abs(found) == 1:
        return found, found, found
    half = Z * math.sqrt((1 + found**2 / 2) / (len(values) - 3))
    return found, math.tanh(math.atanh(found) - half), math.tanh(math.atanh(found) + half)


def agreement(lam: np.ndarray, truth: np.ndarray, baseline: np.ndarray) -> dict[str, Estimate]:
    """Compare the weights (n,) of a rule with the truth (n,), and with the weights (n,) of a baseline, pair by pair.

    Returns:
        'error', the mean of |lam - truth|; 'error_over_area', the mean of |lam - truth| - |baseline - truth|;
        'rank_correlation'.
    """
    error = np.abs(lam - truth)
    return {
        "error": mean_interval(error),
        "error_over_area": mean_interval(error - np.abs(baseline - truth)),
        "rank_correlation": rank_correlation(lam, truth),
    }
