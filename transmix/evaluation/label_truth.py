"""The suite 'label-truth': the error of a mixed label against the visible foreground of both images.

Pairs of validation images and CutMix boxes are drawn as in training; the model runs on the mixed image, and each label
rule gives its lam. Foreground masks give the true lam.

Every box is laid over several pairs, so that what a rule knows of the images can be told from what it knows of the
box (`image_specific`). Null rules that look at nothing stand beside those that look; what is fitted is fitted on one
half of the images, and scored on pairs of the other half.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from transmix.attention import Attention, AttentionError, AttentionReader, receptive_shift
from transmix.data.augment import TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.masks import FOREGROUND, Masks, augmented_masks, crop_mask, open_masks
from transmix.data.seeding import derive_seed
from transmix.data.settings import Augmentation
from transmix.distributed import gather
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.label_pairs import PER_BOX, Pair, PairLabels, draw_pairs, image_halves
from transmix.evaluation.label_scores import judged, scores, true_lam
from transmix.evaluation.suites import Settings
from transmix.labels import (
    AreaLabels,
    AttentionLabels,
    CentreLabels,
    Evidence,
    ProgressiveLabels,
    SourceLabels,
    attention_labels,
)
from transmix.labels.evidence import Rule
from transmix.mixing import Mixed
from transmix.mixing.pixels import boxes_mask

PAIRS = 2000
"""How many the suite draws."""

MAPS = 400
"""Images of each half that a mean map is made of, at most."""

View = Callable[[int], tuple[Tensor, Tensor]]
"""Index of an image -> its pixels (3, H, W) uint8 as the model gets them, and its foreground (H, W) bool."""

RULES: Mapping[str, Any] = {
    "area": AreaLabels(),
    "centre": CentreLabels(),
    "attention": AttentionLabels(1.0),
    "mean": AttentionLabels(),
    "attention_fraction": AttentionLabels(1.0, "fraction"),
    "mean_fraction": AttentionLabels(downsample="fraction"),
    "progressive": ProgressiveLabels(),
    "clean_view": SourceLabels(),
    "clean_view_mean": SourceLabels(weight=0.5),
}
"""What is compared: CutMix's label; a Gaussian at the centre, which looks at nothing; attention alone, TransMix's mean
of it and the area, both also with the fraction of each patch that the box covers; MixPro's labels; what is shown of
each source's own clean attention, and its mean with the area. `judged` adds more."""


@dataclass(frozen=True, eq=False)
class MapLabels:
    """Labels by one map for all images, (P,): a rule that does not look."""

    seen: Attention
    shift: float = 0

    needs: ClassVar = ()

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by the map."""
        row, grid, extent = self.seen
        how = {"downsample": "fraction", "shift": self.shift, "extent": extent}
        return attention_labels(mixed, row.expand(len(mixed.lam), -1), grid=grid, weight=1.0, **how)  # type: ignore[arg-type]


def rules_of(model: torch.nn.Module) -> dict[str, Any]:
    """Return `RULES` for a model: clean views where its tokens look, and TransMix so where that is not their patch."""
    shift = 0.0
    with suppress(AttentionError):
        shift = receptive_shift(model)
    rules = {
        name: replace(rule, shift=shift) if isinstance(rule, SourceLabels) else rule for name, rule in RULES.items()
    }
    return rules if shift == 0 else rules | {"mean_shifted": AttentionLabels(0.5, "fraction", shift)}


def evaluation_view(evaluator: Evaluator, split: Split, masks: Masks) -> View:
    """Return the view of images by the model's own evaluation crop."""
    crop = evaluator.preprocessing.crop
    return lambda index: (crop(split.image(index)), crop_mask(masks(index), crop) == FOREGROUND)


def training_view(evaluator: Evaluator, split: Split, masks: Masks, seed: int) -> View | None:
    """Return the view of images by the run's training augmentation, one crop an image; None for oblong inputs.

    Weights without a recipe get the default augmentation.
    """
    height, width = evaluator.preprocessing.height_width
    if height != width:
        return None
    recipe = evaluator.loaded.recipe
    settings = Augmentation() if recipe is None else recipe.augmentation
    augment, moved = TrainingAugmentation(settings, height), augmented_masks(masks, settings, height)
    assert moved is not None

    def view(index: int) -> tuple[Tensor, Tensor]:
        key = derive_seed(seed, "label-truth crop", index)
        return augment(split.image(index), key), moved(index, key)

    return view


class _Looks:
    """The model's clean attention, image by image: each is computed once."""

    def __init__(self, evaluator: Evaluator, reader: AttentionReader):
        self.evaluator, self.reader = evaluator, reader
        self.normalise = evaluator.preprocessing.normaliser(evaluator.device)
        self.rows: dict[int, Tensor] = {}

    def __call__(self, images: Mapping[int, Tensor]) -> None:
        """Look at images, index -> (3, H, W) uint8, that were not looked at before."""
        new = [index for index in images if index not in self.rows]
        for start in range(0, len(new), self.evaluator.batch_size):
            some = new[start : start + self.evaluator.batch_size]
            _, (seen, self.grid, self.extent) = self.of(torch.stack([images[index] for index in some]))
            self.rows |= dict(zip(some, seen.cpu(), strict=True))

    def of(self, pixels: Tensor) -> tuple[Tensor, Attention]:
        """Return logits and attention of images (b, 3, H, W) uint8, on the CPU."""
        logits = self.evaluator.logits(self.normalise(pixels)).cpu()
        row, grid, extent = self.reader.take()
        return logits, Attention(row.cpu(), grid, extent)

    def clean(self, indices: Sequence[int]) -> Attention:
        """Return the attention in images that were looked at."""
        return Attention(torch.stack([self.rows[index] for index in indices]), self.grid, self.extent)


def mean_maps(evaluator: Evaluator, split: Split, view: View, seed: int) -> list[Attention]:
    """Return the mean of the model's clean attention over `MAPS` images of each half, as rows (P,).

    Raises:
        DataError: More images are unreadable than `evaluator.bad` allows, or all of a half.
    """
    found = []
    with AttentionReader(evaluator.model, training=False, eval=True) as reader:
        for half in image_halves(len(split), seed):
            looks, images = _Looks(evaluator, reader), {}
            for index in half[:MAPS]:
                try:
                    images[index] = view(index)[0]
                except UnreadableImageError as error:
                    (evaluator.bad or BadImages()).add([(error.where, error.reason)])
            if not images:
                raise DataError("no image can be read to make a mean map of")
            looks(images)
            row = torch.stack(list(looks.rows.values())).mean(0)
            found.append(Attention(row, looks.grid, looks.extent))
    return found


def weigh(
    evaluator: Evaluator,
    split: Split,
    masks: Masks,
    pairs: Sequence[Pair],
    rules: Mapping[str, Rule] = RULES,
    view: View | None = None,
) -> PairLabels:
    """Mix each pair, run the model in evaluation mode, and compute the label weights by each rule.

    With several processes, each takes its share, and all get the full result.

    Args:
        evaluator: The model.
        split: The images.
        masks: Index -> mask (H, W); pixels equal to `FOREGROUND` count.
        pairs: Pairs from `draw_pairs`, drawn for the size of the model input.
        rules: Name -> label rule, which may need attention, logits and the clean images' attention.
        view: How images are cropped; None: as in evaluation.

    Raises:
        AttentionError: The model's attention cannot be read.
        DataError: More images are unreadable than `evaluator.bad` allows; pairs with allowed ones are left out.
    """
    load = lru_cache(maxsize=1024)(view or evaluation_view(evaluator, split, masks))  # images come back in other pairs
    clean = any("clean" in rule.needs for rule in rules.values())
    rows = []
    share = range(evaluator.world.rank, len(pairs), evaluator.world.size)
    with AttentionReader(evaluator.model, training=False, eval=True) as reader:
        looks = _Looks(evaluator, reader)
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
            indices = [pairs[number][side] for side in (0, 1) for number in numbers]
            both = _paste(own, partner, pasted, torch.tensor([int(split.labels[index]) for index in indices]))
            evidence = _evidence(looks, both, indices if clean else None, torch.cat([own, partner]))
            lam = [rule(both, evidence).lam[: len(numbers)] for rule in rules.values()]
            shown = [own_mask & ~pasted, partner_mask & pasted, own_mask, partner_mask]
            pixels = [of_image.flatten(1).sum(1) for of_image in shown]
            area = both.lam_area[: len(numbers)]
            rows.append(torch.stack([torch.tensor(numbers), area, *pixels, *lam], dim=1).double())
    mine = torch.cat(rows) if rows else torch.empty(0, 6 + len(rules), dtype=torch.float64)
    found = torch.cat([theirs["rows"] for theirs in gather({"rows": mine}, evaluator.world)])
    table = found[found[:, 0].argsort()].numpy()
    by_rule = dict(zip(rules, table[:, 6:].T, strict=True))
    return PairLabels(table[:, 0].astype(np.int64), by_rule, table[:, 1], table[:, 2:4], table[:, 4:6])


def label_truth(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, float | list | str]]:
    """Yield the error of each rule's label against the truth by object, and by pixel.

    For a rule R: 'error_R' is the mean of |lam - truth|, in 0..1, and 'rank_correlation_R' Spearman's of both;
    'error_over_area_R' is the mean of the error of R minus the error of area on the same pair, below 0 if R is better;
    'image_specific_R' is what R knows of the images beyond the box; 'ghost_error_R' the error where less than a tenth
    of an object is visible. '..._by_pixel' has the other truth, '..._in_training' images cropped as in training.
    A list '..._interval' is the 95 % interval. 'pairs' counts the pairs used, 'left_out' those without
    visible foreground, or with an unreadable image.

    Raises:
        DataError: The data has no masks, or fewer than two images.
        AttentionError: The model's attention cannot be read.
    """
    masks = open_masks(data)
    AttentionReader(evaluator.model).detach()  # raises if it cannot
    size, seed = evaluator.preprocessing.height_width, settings.suite_seed
    pairs = draw_pairs(PAIRS, data.val.labels, size, seed, per_box=PER_BOX)
    return _measure(evaluator, data.val, masks, pairs, seed)


def weigh_all(
    evaluator: Evaluator, split: Split, masks: Masks, pairs: Sequence[Pair], seed: int, view: View
) -> PairLabels:
    """Return the labels by every rule of `rules_of`, and by the mean map of each half: 'map_0', 'map_1'."""
    rules = rules_of(evaluator.model)
    shift = getattr(rules["clean_view"], "shift", 0)
    maps = mean_maps(evaluator, split, view, seed)
    return weigh(
        evaluator, split, masks, pairs, rules | {f"map_{n}": MapLabels(one, shift) for n, one in enumerate(maps)}, view
    )


def _measure(evaluator: Evaluator, split: Split, masks: Masks, pairs: Sequence[Pair], seed: int) -> Iterator:
    weighed = weigh_all(evaluator, split, masks, pairs, seed, evaluation_view(evaluator, split, masks))
    for by, suffix in (("object", ""), ("pixel", "_by_pixel")):
        yield from _values(judged(weighed, by), by, len(pairs), suffix)
    if (view := training_view(evaluator, split, masks, seed)) is not None:
        in_training = weigh_all(evaluator, split, masks, pairs, seed, view)
        yield from _values(judged(in_training, "object"), "object", len(pairs), "_in_training")


def _values(weighed: PairLabels, by: str, pairs: int, suffix: str) -> Iterator[tuple[str, float | list]]:
    known = int(np.isfinite(true_lam(weighed.seen, weighed.whole, by)).sum())
    yield f"pairs{suffix}", known
    yield f"left_out{suffix}", pairs - known
    for rule, found in scores(weighed, by).items():
        if rule == "area":
            del found["error_over_area"]
        for name, (value, low, high) in found.items():
            yield f"{name}_{rule}{suffix}", value
            yield f"{name}_{rule}{suffix}_interval", [low, high]


def _evidence(looks: _Looks, both: Mixed, indices: Sequence[int] | None, images: Tensor) -> Evidence:
    """Return what rules look at, twice the n mixed rows; with `indices` (2n) of the clean images (2n, 3, H, W) too."""
    logits, attention = looks.of(both.images[: len(images) // 2])
    evidence = Evidence(attention=attention._replace(row=attention.row.repeat(2, 1)), logits=logits.repeat(2, 1))
    if indices is None:
        return evidence
    looks(dict(zip(indices, images, strict=True)))
    return replace(evidence, clean=looks.clean(indices))


def _paste(own: Tensor, partner: Tensor, pasted: Tensor, labels: Tensor) -> Mixed:
    """Mix (n, 3, H, W) uint8 with partners where `pasted` (n, H, W) is true; the partners, unmixed, are rows n to 2n.

    labels: (2n,).
    """
    n = len(own)
    lam = torch.cat([1 - pasted.double().mean((1, 2)).float(), torch.ones(n)])
    images = torch.cat([torch.where(pasted[:, None], partner, own), partner])
    partners = torch.arange(n, 2 * n).repeat(2)
    return Mixed(images, labels, partners, lam, lam, torch.cat([pasted, torch.zeros_like(pasted)]))
