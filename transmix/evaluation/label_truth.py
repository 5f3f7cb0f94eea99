"""The suite 'label-truth': the error of a mixed label against the visible foreground of both images.

Pairs of validation images and CutMix boxes are drawn as in training; the model runs on the mixed image, and each label
rule gives its lam. Foreground masks give the true lam.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata  # scikit-learn brings it
from torch import Tensor

from transmix.attention import AttentionReader
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.masks import FOREGROUND, Masks, crop_mask, open_masks
from transmix.data.seeding import derive_seed
from transmix.distributed import gather
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.suites import Settings
from transmix.labels.attention import attention_labels
from transmix.mixing import Mixed
from transmix.mixing.box import Box, box_area, draw_box
from transmix.mixing.pixels import boxes_mask

PAIRS = 2000
"""How many the suite draws."""

Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""

Estimate = tuple[float, float, float]
"""Value, lower and upper end of its 95 % interval."""

Rule = Callable[..., Mixed]
"""(Mixed, attention (B, P), grid=(h, w)) -> Mixed with another lam."""

RULES: Mapping[str, Rule] = {
    "area": partial(attention_labels, weight=0.0),
    "attention": partial(attention_labels, weight=1.0),
    "mean": attention_labels,
    "attention_fraction": partial(attention_labels, weight=1.0, downsample="fraction"),
    "mean_fraction": partial(attention_labels, downsample="fraction"),
}
"""What is compared: CutMix's label, attention alone, TransMix's mean of both; the last two again with the fraction of
each patch that the box covers in place of its upper left pixel."""


class Pair(NamedTuple):
    """A planned mixed image: both images, and the box."""

    own: int  # position of image A
    partner: int  # of image B
    box: Box  # (top, left, bottom, right) in pixels


@dataclass(frozen=True, eq=False)
class PairLabels:
    """Labels of n pairs by each rule, and the visible foreground of their images.

    Attributes:
        pairs: (n,) int64, indices of the drawn pairs.
        lam: rule -> (n,) float64, weight of image A's label.
        lam_area: (n,) float64, the area fraction of image A.
        seen: (n, 2) float64, visible foreground pixels of A and of B in the mixed image.
        whole: (n, 2) float64, foreground pixels of A and of B before mixing.
    """

    pairs: np.ndarray
    lam: dict[str, np.ndarray]
    lam_area: np.ndarray
    seen: np.ndarray
    whole: np.ndarray


def draw_pairs(
    count: int, labels: Sequence[int] | np.ndarray, size: tuple[int, int], seed: int, alpha: float = 1.0
) -> list[Pair]:
    """Draw pairs of images of different classes, each with a box drawn as in `Mixer`.

    Pairs of one class and empty boxes are drawn again, because they do not change the label. Each pair depends only on
    the seed and its number.

    Args:
        count: Number of pairs.
        labels: (N,) labels of the images; if all are of one class, pairs are too.
        size: (H, W) of the model input.
        seed: Random seed.
        alpha: The area fraction of image A is drawn from Beta(alpha, alpha).

    Raises:
        DataError: There are fewer than two images.
    """
    if len(labels) < 2:
        raise DataError(f"a pair needs two images, there is {len(labels)}")
    one_class = len({int(label) for label in labels}) == 1
    pairs = []
    for number in range(count):
        rng = random.Random(derive_seed(seed, "label-truth", number))
        while True:
            own, partner = rng.sample(range(len(labels)), 2)
            box = draw_box(rng, rng.betavariate(alpha, alpha), *size)
            if box_area(box) and (one_class or labels[own] != labels[partner]):
                break
        pairs.append(Pair(own, partner, box))
    return pairs


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


def weigh(
    evaluator: Evaluator, split: Split, masks: Masks, pairs: Sequence[Pair], rules: Mapping[str, Rule] = RULES
) -> PairLabels:
    """Mix each pair, run the model in evaluation mode, and compute the label weights by each rule.

    With several processes, each takes its share, and all get the full result.

    Args:
        evaluator: The model.
        split: The images.
        masks: Index -> mask (H, W); pixels equal to `FOREGROUND` count.
        pairs: Pairs from `draw_pairs`, drawn for the size of the model input.
        rules: Name -> label rule.

    Raises:
        AttentionError: The model's attention cannot be read.
        DataError: More images are unreadable than `evaluator.bad` allows; pairs with allowed ones are left out.
    """
    crop, normalise = evaluator.preprocessing.crop, evaluator.preprocessing.normaliser(evaluator.device)

    @lru_cache(maxsize=1024)  # images of one pair come back in others
    def load(index: int) -> tuple[Tensor, Tensor]:
        return crop(split.image(index)), crop_mask(masks(index), crop) == FOREGROUND

    rows = []
    share = range(evaluator.world.rank, len(pairs), evaluator.world.size)
    with AttentionReader(evaluator.model, training=False, eval=True) as reader:
        for start in range(0, len(share), evaluator.batch_size):
            numbers, loaded = [], []
            for number in share[start : start + evaluator.batch_size]:
                try:
                    loaded.append((*load(pairs[number].own), *load(pairs[number].partner)))
                    numbers.append(number)
                except UnreadableImageError as error:
                    (evaluator.bad or BadImages()).add([(error.where, error.reason)])
            if not numbers:
                continue
            own, own_mask, partner, partner_mask = map(torch.stack, zip(*loaded, strict=True))
            boxes = torch.tensor([pairs[number].box for number in numbers])
            pasted = boxes_mask(boxes, own.shape[-2], own.shape[-1])
            mixed = _paste(own, partner, pasted)
            evaluator.logits(normalise(mixed.images))
            attention, grid, _ = reader.take()
            attention = attention.cpu()
            lam = [rule(mixed, attention, grid=grid).lam for rule in rules.values()]
            shown = [own_mask & ~pasted, partner_mask & pasted, own_mask, partner_mask]
            pixels = [of_image.flatten(1).sum(1) for of_image in shown]
            rows.append(torch.stack([torch.tensor(numbers), mixed.lam_area, *pixels, *lam], dim=1).double())
    mine = torch.cat(rows) if rows else torch.empty(0, 6 + len(rules), dtype=torch.float64)
    found = torch.cat([theirs["rows"] for theirs in gather({"rows": mine}, evaluator.world)])
    table = found[found[:, 0].argsort()].numpy()
    by_rule = dict(zip(rules, table[:, 6:].T, strict=True))
    return PairLabels(table[:, 0].astype(np.int64), by_rule, table[:, 1], table[:, 2:4], table[:, 4:6])


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean of (n,) values with its normal interval; nan without values; no interval (nan) for one."""
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


def label_truth(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, float | list | str]]:
    """Yield the error of each rule's label against the truth by object, and by pixel.

    For a rule R: 'error_R' is the mean of |lam - truth|, in 0..1, and 'rank_correlation_R' Spearman's of both;
    'error_over_area_R' is the mean of the error of R minus the error of area on the same pair, below 0 if R is better.
    A list '..._interval' is the 95 % interval, over pairs. 'pairs' counts the pairs used, 'left_out' those without
    visible foreground, or with an unreadable image.

    Raises:
        DataError: The data has no masks, or fewer than two images.
        AttentionError: The model's attention cannot be read.
    """
    masks = open_masks(data)
    AttentionReader(evaluator.model).detach()  # raises if it cannot
    pairs = draw_pairs(PAIRS, data.val.labels, evaluator.preprocessing.height_width, settings.suite_seed)
    return _measure(evaluator, data.val, masks, pairs)


def _measure(evaluator: Evaluator, split: Split, masks: Masks, pairs: Sequence[Pair]) -> Iterator:
    weighed = weigh(evaluator, split, masks, pairs)
    for by, suffix in (("object", ""), ("pixel", "_by_pixel")):
        truth = true_lam(weighed.seen, weighed.whole, by)
        known = ~np.isnan(truth)
        yield f"pairs{suffix}", int(known.sum())
        yield f"left_out{suffix}", len(pairs) - int(known.sum())
        for rule, lam in weighed.lam.items():
            found = agreement(lam[known], truth[known], weighed.lam_area[known])
            if rule == "area":
                del found["error_over_area"]
            for name, (value, low, high) in found.items():
                yield f"{name}_{rule}{suffix}", value
                yield f"{name}_{rule}{suffix}_interval", [low, high]


def _paste(own: Tensor, partner: Tensor, pasted: Tensor) -> Mixed:
    """Mix (n, 3, H, W) uint8 with partners from outside the batch, where `pasted` (n, H, W) is true."""
    lam = 1 - pasted.double().mean((1, 2)).float()
    nothing = torch.zeros(len(own), dtype=torch.int64)  # labels are not looked at
    return Mixed(torch.where(pasted[:, None], partner, own), nothing, None, lam, lam, pasted)
