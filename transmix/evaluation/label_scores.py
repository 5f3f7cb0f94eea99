"""How good weights of labels are: the truth by masks, errors, correlations, and null rules that are fitted."""

import math
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata  # scikit-learn brings it

from transmix.evaluation.label_pairs import PER_BOX, PairLabels, half_of

GHOST = 0.1
"""Share of an object that is visible, below which its image counts as a ghost."""

Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""

Estimate = tuple[float, float, float]
"""Value, lower and upper end of its 95 % interval."""


def true_lam(seen: np.ndarray, whole: np.ndarray, by: str = "object") -> np.ndarray:
    """Return the true weight of image A's label, from the visible foreground of both images.

        by object   lam = (seen_A / whole_A) / (seen_A / whole_A + seen_B / whole_B)
        by pixel    lam = seen_A / (seen_A + seen_B)

    'object' is the default: an unmixed image has the label 1 whether its object is small or large, so a label counts
    objects, not pixels. Half a mouse next to half an elephant is half of each; by pixel the elephant would win. For
    objects of equal size both are the same.

    Args:
        seen: (n, 2) visible foreground pixels of A and of B in the mixed image.
        whole: (n, 2) the same before mixing.
        by: "object" or "pixel".

    Returns:
        (n,) float64; nan if no foreground is visible; by object also if an image has no foreground at all.
    """
    if by not in ("object", "pixel"):
        raise ValueError(f"by must be 'object' or 'pixel', not {by!r}")
    with np.errstate(invalid="ignore", divide="ignore"):
        shown = seen / whole if by == "object" else np.asarray(seen, dtype=np.float64)
        return shown[:, 0] / shown.sum(axis=1)


def judged(weighed: PairLabels, by: str, per_box: int = PER_BOX) -> PairLabels:
    """Return labels with those of rules that are made of others: the line, the mean map, and centre with clean view.

        line                lam = a + b * lam_area, least squares on the truth of the pairs of the other half
        mean_map            by the mean map of the other half of the images
        clean_view_centre   mean of both

    Pairs without a truth are kept.
    """
    lam, half = dict(weighed.lam), half_of(weighed.pairs, per_box)
    truth, area = true_lam(weighed.seen, weighed.whole, by), weighed.lam_area
    line = np.empty_like(area)
    for scored in (0, 1):
        fitted = (half != scored) & ~np.isnan(truth)
        b, a = np.polyfit(area[fitted], truth[fitted], 1) if len({*area[fitted]}) > 1 else (1.0, 0.0)
        line[half == scored] = np.clip(a + b * area[half == scored], 0, 1)
    lam["line"] = line
    if {"map_0", "map_1"} <= lam.keys():
        lam["mean_map"] = np.where(half == 0, lam.pop("map_1"), lam.pop("map_0"))
    if {"clean_view", "centre"} <= lam.keys():
        lam["clean_view_centre"] = (lam["clean_view"] + lam["centre"]) / 2
    return replace(weighed, lam=lam)


def scores(weighed: PairLabels, by: str, per_box: int = PER_BOX) -> dict[str, dict[str, Estimate]]:
    """Return rule -> `agreement`, 'image_specific', and 'ghost_error': the error where one image is a ghost.

    A ghost shows less than `GHOST` of its object.
    """
    truth, box = true_lam(weighed.seen, weighed.whole, by), weighed.pairs // per_box
    known = ~np.isnan(truth)
    ghost = known & ghosts(weighed)
    found = {}
    for rule, lam in weighed.lam.items():
        found[rule] = agreement(lam[known], truth[known], weighed.lam_area[known], box[known])
        found[rule]["image_specific"] = image_specific(lam[known], truth[known], box[known])
        found[rule]["ghost_error"] = mean_interval(np.abs(lam - truth)[ghost], box[ghost])
    return found


def ghosts(weighed: PairLabels) -> np.ndarray:
    """Return (n,) bool: pairs with an image of whose object, if it has one, less than `GHOST` is visible."""
    shown = np.where(weighed.whole > 0, weighed.seen / np.maximum(weighed.whole, 1), 1)
    return shown.min(axis=1) < GHOST


def image_specific(lam: np.ndarray, truth: np.ndarray, box: np.ndarray, draws: int = 400) -> Estimate:
    """Return the correlation of what weights and truth say of the images, beyond what the box says.

    Both are centred by their mean over the pairs that share the box. A rule that does not look at the images gives all
    of these one weight, and has 0. The interval is that of a bootstrap over boxes.

    Args:
        lam: (n,) weights.
        truth: (n,) without nan.
        box: (n,) number of each pair's box.
        draws: of the bootstrap.
    """
    numbers, group = np.unique(box, return_inverse=True)
    pairs = np.bincount(group)
    within = [values - (np.bincount(group, values) / pairs)[group] for values in (lam, truth)]
    products = ((0, 1), (0, 0), (1, 1))
    sums = np.stack([np.bincount(group, within[a] * within[b], len(numbers)) for a, b in products], 1)
    if len(numbers) == 0 or sums[:, 1].sum() < 1e-9 * len(lam) or sums[:, 2].sum() < 1e-9 * len(lam):
        return 0.0, 0.0, 0.0
    drawn = np.random.default_rng(0).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), draws) @ sums
    both, own, true = np.vstack([sums.sum(0), drawn]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = both / np.sqrt(own * true)
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return float(found[0]), float(low), float(high)


def mean_interval(values: np.ndarray, box: np.ndarray | None = None) -> Estimate:
    """Return the mean of (n,) values with its normal interval; nan without values; no interval (nan) for one.

    Args:
        values: (n,).
        box: (n,) number of each pair's box, if pairs share boxes: their values then vary together, and the variance is
            that of the sums over boxes, G / (G - 1) * sum_g (sum of deviations in g)^2 / n^2 of G boxes.
    """
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    group = np.unique(np.arange(len(values)) if box is None else box, return_inverse=True)[1]
    sums = np.bincount(group, values - mean)
    of = len(sums)
    half = Z * math.sqrt(of / (of - 1) * float(sums @ sums)) / len(values) if of > 1 else math.nan
    return mean, mean - half, mean + half


def rank_correlation(values: np.ndarray, truth: np.ndarray) -> Estimate:
    """Return Spearman's correlation of (n,) values and truth, ties sharing their mean rank; nan if either is constant.

    The interval is the normal one of Fisher's z, whose variance for ranks is (1 + r^2 / 2) / (n - 3).

    Source: Bonett and Wright, Sample size requirements for Pearson, Kendall and Spearman correlations
    (Psychometrika 2000).
    """
    if len(values) < 4 or np.ptp(values) == 0 or np.ptp(truth) == 0:
        return math.nan, math.nan, math.nan
    found = float(np.corrcoef(rankdata(values), rankdata(truth))[0, 1])
    found = min(max(found, -1.0), 1.0)
    if abs(found) == 1:
        return found, found, found
    half = Z * math.sqrt((1 + found**2 / 2) / (len(values) - 3))
    return found, math.tanh(math.atanh(found) - half), math.tanh(math.atanh(found) + half)


def agreement(
    lam: np.ndarray, truth: np.ndarray, baseline: np.ndarray, box: np.ndarray | None = None
) -> dict[str, Estimate]:
    """Compare the weights (n,) of a rule with the truth (n,), and with the weights (n,) of a baseline, pair by pair.

    Intervals of errors know the boxes (n,) that pairs share; that of the correlation takes pairs for independent.

    Returns:
        'error', the mean of |lam - truth|; 'error_over_area', the mean of |lam - truth| - |baseline - truth|;
        'rank_correlation'.
    """
    error = np.abs(lam - truth)
    return {
        "error": mean_interval(error, box),
        "error_over_area": mean_interval(error - np.abs(baseline - truth), box),
        "rank_correlation": rank_correlation(lam, truth),
    }
