"""Means over seeds, and paired differences with confidence intervals and p-values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Of the intervals; 1 - LEVEL is the p below which a difference counts as more than noise."""


@dataclass(frozen=True)
class Mean:
    """A score over seeds: how many, their mean and standard deviation (n - 1 in the denominator; None for one)."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """A score of one group minus that of another, seed by seed.

    Attributes:
        seeds: seeds that both groups have, ascending.
        each: difference for each seed.
        mean: mean of the differences.
        sd: standard deviation of the differences, n - 1 in the denominator; None for one seed.
        low: lower end of the 95 % confidence interval of the mean difference (Student's t).
        high: its upper end.
        p: p-value of the two-sided paired t-test.

    low, high and p are None for one seed, and if all seeds have exactly the same difference. Scores are counts over a
    few hundred images, so equal differences can be chance, and an interval of zero width would be misleading.
    """

    seeds: tuple[int, ...]
    each: tuple[float, ...]
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0; False without an interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean_of(values: Sequence[float]) -> Mean:
    """Return mean and standard deviation of at least one value."""
    mean = math.fsum(values) / len(values)
    return Mean(len(values), mean, _deviation(values, mean))


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two groups over the seeds that both have; None if they share none.

    With d the n differences, the interval is mean(d) +- t * sd(d) / sqrt(n), t the 97.5 % point of Student's t with
    n - 1 degrees of freedom (12.7 for two seeds, 4.3 for three, 2.8 for five). It assumes normally distributed
    differences, which a few seeds cannot verify.

    Args:
        values: seed -> score.
        baseline: seed -> score of the group that is subtracted.
    """
    from scipy.special import stdtr, stdtrit  # scipy comes with scikit-learn; it takes a while to import

    seeds = tuple(sorted(values.keys() & baseline.keys()))
    if not seeds:
        return None
    each = tuple(values[seed] - baseline[seed] for seed in seeds)
    mean, n = math.fsum(each) / len(each), len(each)
    sd = _deviation(each, mean)
    rounding = 1e-12 * max(abs(value) for seed in seeds for value in (values[seed], baseline[seed]))
    if sd is None or sd <= rounding:
        return Difference(seeds, each, mean, sd)
    error = sd / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Difference(seeds, each, mean, sd, mean - half, mean + half, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests so that the family-wise error rate is controlled.

    The smallest of m is multiplied by m, the next by m - 1, and so on; no value is smaller than the one before it, or
    larger than 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def _deviation(values: Sequence[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
