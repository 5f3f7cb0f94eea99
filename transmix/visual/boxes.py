"""Boxes over a data set: drawn from a seed, judged by a model's attention, ranked by how far both labels differ."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transmix.labels.attention import AttentionLabels, attention_labels
from transmix.mixing import Mixed
from transmix.mixing.box import Box, box_area, draw_box
from transmix.mixing.pixels import boxes_mask, on_mask, per_row
from transmix.recipes.mixing import build_rule
from transmix.recipes.settings import Mixing
from transmix.visual.look import look
from transmix.visual.overlay import as_picture
from transmix.visual.pairs import Pair, label_shares

BATCH = 64


class PastedBox(NamedTuple):
    """Which image is pasted into which, and where."""

    own: int  # position of image A
    partner: int  # of image B
    box: Box  # (top, left, bottom, right) in pixels


class BoxLabels(NamedTuple):
    """The labels of n mixed pairs, by area and by attention.

    Attributes:
        boxes: n of them.
        lam_area: (n,) float64, weight of image A's label by area.
        lam_attention: (n,) float64, the same by attention alone.
        attention: (n, P) float32.
        grid: (h, w).
    """

    boxes: Sequence[PastedBox]
    lam_area: np.ndarray
    lam_attention: np.ndarray
    attention: np.ndarray
    grid: tuple[int, int]


def draw_boxes(
    count: int, images: int, size: tuple[int, int], seed: int, alpha: float = 1.0, labels: Any = None
) -> list[PastedBox]:
    """Draw pairs among images, each with a CutMix box that is not empty.

    Which ones follows from the arguments alone; global random states are neither read nor changed.

    Args:
        count: How many.
        images: How many images there are.
        size: (H, W) of the images.
        seed: Decides it all.
        alpha: The area left to image A is drawn from Beta(alpha, alpha).
        labels: One integer an image, or None; if there are two or more classes, both images of a pair are of different
            ones, because no box between images of one class changes a label.

    Raises:
        ValueError: If there are fewer than two images.
    """
    if images < 2:
        raise ValueError(f"a pair needs two images, got {images}")
    rng = random.Random(seed)
    differ = labels is not None and len({int(label) for label in labels}) > 1
    boxes = []
    while len(boxes) < count:
        own, partner = rng.sample(range(images), 2)
        box = draw_box(rng, rng.betavariate(alpha, alpha), *size)
        if box_area(box) and not (differ and labels is not None and labels[own] == labels[partner]):
            boxes.append(PastedBox(own, partner, box))
    return boxes


def judge(
    model: nn.Module,
    boxes: Sequence[PastedBox],
    image: Callable[[int], Tensor],
    normalise: Callable[[Tensor], Tensor],
    *,
    downsample: str = "nearest",
) -> BoxLabels:
    """Paste each box, run the model, and weigh the labels.

    Args:
        model: Any that `AttentionReader` reads.
        boxes: At least one.
        image: Position -> (3, H, W) uint8.
        normalise: Makes the model's input of (B, 3, H, W) uint8.
        downsample: How a box comes down to patches, as in `attention_labels`.

    Raises:
        AttentionError: The model's attention cannot be read.
    """
    found, grid = [], (0, 0)
    for start in range(0, len(boxes), BATCH):
        mixed = paste(boxes[start : start + BATCH], image)
        looked = look(model, normalise(mixed.images), maps=False)
        grid = looked.grid
        relabelled = attention_labels(mixed, looked.attention, grid=grid, weight=1.0, downsample=downsample)
        found.append((mixed.lam_area.double(), relabelled.lam.double(), looked.attention))
    by_area, by_attention, attention = (torch.cat(values).numpy() for values in zip(*found, strict=True))
    return BoxLabels(boxes, by_area, by_attention, attention, grid)


def paste(boxes: Sequence[PastedBox], image: Callable[[int], Tensor]) -> Mixed:
    """Return the n mixed images of n boxes; the partners are no rows of the batch, and labels mean nothing."""
    own, partner = (torch.stack([image(getattr(one, side)) for one in boxes]) for side in ("own", "partner"))
    height, width = own.shape[-2:]
    mask = boxes_mask(torch.tensor([one.box for one in boxes]), height, width)
    lam = per_row([1 - box_area(one.box) / (height * width) for one in boxes], own)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Mixed(on_mask(own, partner, mask), labels, None, lam, lam, mask)


def most_disputed(judged: BoxLabels, count: int, *, empty: bool = False) -> list[int]:
    """Return the positions of the boxes whose labels by area and by attention differ most, the most first.

    Args:
        judged: n boxes.
        count: How many to return at most.
        empty: Only boxes that get less of the attention than of the area.
    """
    order = np.argsort(-np.abs(judged.lam_area - judged.lam_attention), kind="stable")
    wanted = judged.lam_attention > judged.lam_area if empty else np.ones(len(order), dtype=bool)
    return order[wanted[order]][:count].tolist()


def trained_rule(mixing: Mixing) -> AttentionLabels:
    """Return the rule by attention with which a run trains, or with the paper's settings if it trains with another."""
    rule = build_rule(mixing)
    return rule if isinstance(rule, AttentionLabels) else AttentionLabels()


def pairs_of(
    judged: BoxLabels,
    positions: Sequence[int],
    image: Callable[[int], Tensor],
    name: Callable[[int], str],
    weight: float = 0.5,
) -> list[Pair]:
    """Make what is drawn of some of the boxes; `name` names an image, `weight` is that of attention in training."""
    pairs = []
    for position in positions:
        boxed = judged.boxes[position]
        mixed = paste([boxed], image)
        assert mixed.mask is not None
        area, attention = float(judged.lam_area[position]), float(judged.lam_attention[position])
        own, partner, picture = map(as_picture, (image(boxed.own), image(boxed.partner), mixed.images[0]))
        names = name(boxed.own), name(boxed.partner)
        shares = label_shares(area, attention, weight * attention + (1 - weight) * area)
        mask = mixed.mask[0].numpy()
        pairs.append(Pair(own, partner, picture, mask, judged.attention[position], names, shares))
    return pairs
