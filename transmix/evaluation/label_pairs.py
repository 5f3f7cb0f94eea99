"""Pairs of images with a box, for measuring labels; and what label rules and masks say of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transmix.data.dataset import DataError
from transmix.data.seeding import derive_seed
from transmix.mixing.box import Box, box_area, draw_box

PER_BOX = 8
"""Pairs that share a box."""


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
    count: int,
    labels: Sequence[int] | np.ndarray,
    size: tuple[int, int],
    seed: int,
    alpha: float = 1.0,
    per_box: int = 1,
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
        per_box: So many pairs in a row share a box. With more than one, boxes take their pairs from one half of the
            images and from the other in turn, see `half_of`.

    Raises:
        DataError: There are fewer than two images.
    """
    if len(labels) < 2:
        raise DataError(f"a pair needs two images, there is {len(labels)}")
    halves = [range(len(labels))] * 2 if per_box == 1 else image_halves(len(labels), seed)
    one_class = [len({int(labels[index]) for index in half}) == 1 for half in halves]
    pairs = []
    for number in range(count):
        box_number, half = number // per_box, half_of(number, per_box)
        rng = random.Random(derive_seed(seed, "label-truth", number))
        boxes = rng if per_box == 1 else random.Random(derive_seed(seed, "label-truth box", box_number))
        while True:
            own, partner = rng.sample(halves[half], 2)
            box = draw_box(boxes, boxes.betavariate(alpha, alpha), *size) if boxes is rng else None
            if (box is None or box_area(box)) and (one_class[half] or labels[own] != labels[partner]):
                break
        while box is None or not box_area(box):
            box = draw_box(boxes, boxes.betavariate(alpha, alpha), *size)
        pairs.append(Pair(own, partner, box))
    return pairs


def image_halves(images: int, seed: int) -> list[list[int]]:
    """Split the indices of images at random into two halves; of fewer than four images, both are all of them."""
    order = random.Random(derive_seed(seed, "label-truth halves")).sample(range(images), images)
    return [order, order] if images < 4 else [sorted(order[::2]), sorted(order[1::2])]


def half_of(number: int | np.ndarray, per_box: int) -> int:
    """Return which half of the images a pair is drawn from, 0 or 1."""
    return number // per_box % 2  # type: ignore[return-value]
