"""Random boxes over a data set, labelled by area, by a model's attention and by any rule, ranked by the difference."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transmix.labels.attention import attention_labels
from transmix.labels.evidence import Rule
from transmix.mixing import Draw, Mixed
from transmix.mixing.box import Box, box_area, draw_box
from transmix.mixing.pixels import boxes_mask, on_mask, per_row
from transmix.visual.labels import gather, label, own_share
from transmix.visual.look import look
from transmix.visual.overlay import as_picture
from transmix.visual.pairs import Pair, label_shares

BATCH = 64


class PastedBox(NamedTuple):
    """A pair of images and the pasted box."""

    own: int  # position of image A
    partner: int  # of image B
    box: Box  # (top, left, bottom, right) in pixels


class BoxLabels(NamedTuple):
    """The labels of n mixed pairs, by area and by attention.

    Attributes:
        boxes: the n boxes.
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
    """Draw pairs of images, each with a non-empty CutMix box.

    The result depends only on the arguments; global random states are neither read nor changed.

    Args:
        count: Number of pairs.
        images: Number of images.
        size: (H, W) of the images.
        seed: Random seed.
        alpha: The area fraction of image A is drawn from Beta(alpha, alpha).
        labels: One integer per image, or None. With two or more classes, the images of a pair have different classes,
            because otherwise a box does not change the label.

    Raises:
        ValueError: Fewer than two images.
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
    """Paste each box, run the model, and compute the label weights.

    Args:
        model: Any model that `AttentionReader` supports.
        boxes: At least one.
        image: Index -> (3, H, W) uint8.
        normalise: Converts (B, 3, H, W) uint8 to the model's input.
        downsample: How a box mask is downsampled to patches, as in `attention_labels`.

    Raises:
        AttentionError: The model's attention cannot be read.
    """
    found, grid = [], (0, 0)
    for start in range(0, len(boxes), BATCH):
        mixed = paste(boxes[start : start + BATCH], image)
        looked = look(model, normalise(mixed.images), maps=False)
        grid = looked.grid
        how = {"grid": grid, "extent": looked.extent, "downsample": downsample}
        relabelled = attention_labels(mixed, looked.attention, weight=1.0, **how)
        found.append((mixed.lam_area.double(), relabelled.lam.double(), looked.attention))
    by_area, by_attention, attention = (torch.cat(values).numpy() for values in zip(*found, strict=True))
    return BoxLabels(boxes, by_area, by_attention, attention, grid)


def paste(boxes: Sequence[PastedBox], image: Callable[[int], Tensor]) -> Mixed:
    """Return the n mixed images of n boxes; partners are not in the batch, and labels are placeholders."""
    own, partner = (torch.stack([image(getattr(one, side)) for one in boxes]) for side in ("own", "partner"))
    height, width = own.shape[-2:]
    mask = boxes_mask(torch.tensor([one.box for one in boxes]), height, width)
    lam = per_row([1 - box_area(one.box) / (height * width) for one in boxes], own)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Mixed(on_mask(own, partner, mask), labels, None, lam, lam, mask)


def most_disputed(judged: BoxLabels, count: int, *, empty: bool = False) -> list[int]:
    """Return the indices of the boxes whose labels by area and by attention differ most, largest difference first.

    Args:
        judged: Labels of n boxes.
        count: Maximum number of boxes.
        empty: Only boxes whose attention share is below their area share.
    """
    order = np.argsort(-np.abs(judged.lam_area - judged.lam_attention), kind="stable")
    wanted = judged.lam_attention > judged.lam_area if empty else np.ones(len(order), dtype=bool)
    return order[wanted[order]][:count].tolist()


def rule_labels(
    model: nn.Module,
    rule: Rule,
    boxes: Sequence[PastedBox],
    image: Callable[[int], Tensor],
    normalise: Callable[[Tensor], Tensor],
    classes: Callable[[int], int] = lambda _: 0,
    foreground: Callable[[int], Tensor] | None = None,
) -> list[float]:
    """Return the weight of image A's label by a rule for each of n boxes.

    Each pair is mixed both ways, A with B and B with A, because a rule may look at both clean images.

    Args:
        model: As in `judge`.
        rule: The rule.
        boxes: At least one.
        image: As in `judge`.
        normalise: As in `judge`.
        classes: Index -> class number, for rules that look at the classes.
        foreground: Index -> (H, W) bool, where the object is, for rules that need masks.

    Raises:
        AttentionError: The model does not give what the rule needs.
        DataError: A mask cannot be read.
    """
    both = [one for side in ("own", "partner") for one in (getattr(box, side) for box in boxes)]
    images, count = torch.stack([image(one) for one in both]), len(boxes)
    height, width = images.shape[-2:]
    partner = (*range(count, 2 * count), *range(count))
    places = tuple(box.box for box in boxes) * 2
    lam = tuple(1 - box_area(place) / (height * width) for place in places)
    draw = Draw(height, width, partner, lam, places)
    inputs = normalise(images)
    mixed = draw.apply(inputs, torch.tensor([classes(one) for one in both], device=inputs.device))
    evidence = gather(model, rule.needs, mixed.images, inputs)
    if foreground is not None and "foreground" in rule.needs:
        masks = torch.stack([foreground(one) for one in both])
        evidence = replace(evidence, foreground=masks.to(inputs.device))
    found = label(mixed, rule, evidence)
    return own_share(found)[:count].tolist()


def pairs_of(
    judged: BoxLabels,
    positions: Sequence[int],
    image: Callable[[int], Tensor],
    name: Callable[[int], str],
    trained: Sequence[float] | None = None,
) -> list[Pair]:
    """Make `Pair` objects for some boxes.

    Args:
        judged: Labels of n boxes.
        positions: The m boxes to show.
        image: As in `judge`.
        name: Index -> name of the image.
        trained: The m weights of image A's label as trained; None: not shown.
    """
    pairs = []
    for row, position in enumerate(positions):
        boxed = judged.boxes[position]
        mixed = paste([boxed], image)
        assert mixed.mask is not None
        area, attention = float(judged.lam_area[position]), float(judged.lam_attention[position])
        own, partner, picture = map(as_picture, (image(boxed.own), image(boxed.partner), mixed.images[0]))
        names = name(boxed.own), name(boxed.partner)
        shares = label_shares(area, attention, None if trained is None else trained[row])
        mask = mixed.mask[0].numpy()
        pairs.append(Pair(own, partner, picture, mask, judged.attention[position], names, shares))
    return pairs
