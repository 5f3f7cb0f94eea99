"""The suite 'occlusion': how accuracy falls when patches are dropped: random, salient, or non-salient ones.

Source: Naseer et al., Intriguing Properties of Vision Transformers (NeurIPS 2021, arXiv 2105.10497), and its code. As
    there, floor(ratio * P) of the P patches are dropped, and a dropped patch is black, 0 before normalisation.
    Differences:
- each image drops its own patches; the published code drops the same ones in a whole batch;
- a higher ratio also drops the patches of the lower ones, which makes curves smooth;
- saliency is the model's own class attention, and a ratio counts patches; there it is a fraction of the attention of
one
  head of DINO. A model without readable class attention gets random occlusion only;
- the patches are those of the model's class attention or, in a plain ViT, of its embedding; in other models they are
  14 x 14, as always in the published code.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from transmix.attention import AttentionError, AttentionReader
from transmix.attention.find import unwrap
from transmix.data.dataset import ImageData
from transmix.evaluation.accumulators import Accuracy, sum_over_ranks, top1
from transmix.evaluation.evaluator import Evaluator
from transmix.evaluation.shuffle import random_order
from transmix.evaluation.suites import Settings, Value
from transmix.recipes import RecipeError

WITHOUT_PATCHES = (14, 14)
"""The grid for models that do not keep one cut of the image into patches: that of the paper."""


def occlusion(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield the grid, the source of saliency, the ratios, and for each way of dropping the top-1 accuracies.

    Raises:
        RecipeError: a ratio outside 0..1.
    """
    ratios = settings.occlusion_ratios
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise RecipeError(f"occlusion_ratios are shares of the patches in 0..1, not {list(ratios)}")
    grid, saliency = _try(evaluator)
    return _measure(evaluator, data, settings, grid, saliency)


def _measure(
    evaluator: Evaluator, data: ImageData, settings: Settings, grid: tuple[int, int], saliency: str
) -> Iterator[tuple[str, Value]]:
    patches, readable = grid[0] * grid[1], not saliency.startswith("none")
    seen = evaluator.preprocessing
    mean, std = (torch.tensor(values, device=evaluator.device) for values in (seen.mean, seen.std))
    fill = -mean / std if settings.occlusion_fill == "black" else torch.zeros_like(mean)
    counts = [drop_count(ratio, patches) for ratio in settings.occlusion_ratios]
    ways = ("random", "salient", "non_salient") if readable else ("random",)
    scores = {way: [Accuracy(len(evaluator.classes), evaluator.device) for _ in counts] for way in ways}
    with _reader(evaluator.model) if readable else nullcontext() as reader:
        for pixels, labels, index in evaluator.batches(data.val, "occlusion"):
            clean = evaluator.logits(pixels)
            orders = {"random": random_order(index, patches, settings.suite_seed, "occlusion").to(evaluator.device)}
            if reader is not None:
                attention = reader.take().row
                orders["salient"] = attention.argsort(dim=1, descending=True, stable=True)
                orders["non_salient"] = attention.argsort(dim=1, stable=True)
            for way in ways:
                for score, count in zip(scores[way], counts, strict=True):
                    occluded = drop(pixels, orders[way][:, :count], grid, fill)
                    score.update(evaluator.logits(occluded) if count else clean, labels)

    yield "images", int(sum_over_ranks(scores["random"][0]).count)
    yield "grid", f"{grid[0]} x {grid[1]}"
    yield "saliency", saliency
    yield "ratios", list(settings.occlusion_ratios)
    for way in ways:
        yield way, [top1(score) for score in scores[way]]


def drop_count(ratio: float, patches: int) -> int:
    """Return floor(ratio * patches), robust to rounding: 0.7 of 10 is 7."""
    return int(ratio * patches + 1e-9)


def drop(pixels: Tensor, patches: Tensor, grid: tuple[int, int], fill: Tensor) -> Tensor:
    """Return a copy of images with some patches filled.

    Args:
        pixels: (B, C, H, W).
        patches: (B, n) int64, patches to drop, row-major; pixel row y belongs to row floor(y * h / H) of the grid.
        grid: (h, w).
        fill: (C,), the colour.
    """
    dropped = torch.zeros(len(pixels), grid[0] * grid[1], device=pixels.device).scatter_(1, patches, 1)
    covered = F.interpolate(dropped.view(-1, 1, *grid), size=pixels.shape[-2:], mode="nearest")
    return torch.where(covered > 0, fill.to(pixels.dtype)[:, None, None], pixels)


def _try(evaluator: Evaluator) -> tuple[tuple[int, int], str]:
    """Return the patch grid and the source of saliency, from a forward of one black image; equal on every process."""
    black = torch.zeros(1, 3, *evaluator.preprocessing.height_width, device=evaluator.device)
    try:
        with _reader(evaluator.model) as reader:
            evaluator.logits(black)
            return reader.take().grid, f"class attention of {reader.name}"
    except AttentionError as error:
        grid, model = WITHOUT_PATCHES, unwrap(evaluator.model)
        if isinstance(model, VisionTransformer):  # no hierarchical model: these begin with far smaller patches
            down, across = model.patch_embed.patch_size
            grid = black.shape[-2] // down, black.shape[-1] // across
        return grid, f"none: {error}"


def _reader(model: nn.Module) -> AttentionReader:
    return AttentionReader(model, training=False, eval=True)
