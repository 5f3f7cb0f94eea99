"""The suites 'occlusion' and 'shuffle': how accuracy falls as patches are dropped, or change places.

Source: Naseer et al., Intriguing Properties of Vision Transformers (NeurIPS 2021, arXiv 2105.10497), and its code.

Patches are dropped at random, the salient ones, or the others. As there, floor(ratio * P) of the P patches are dropped,
and a dropped patch is black, 0 before normalisation. Differently:
- every image has patches of its own dropped, where the code drops the same ones in a whole batch;
- at a higher ratio the patches of a lower one are dropped too, which makes curves smooth;
- saliency is the model's own class attention, and a ratio is one of patches; there it is a share of the attention of
  one head of DINO. A model whose class attention cannot be read is occluded at random only;
- patches are those of the model's class attention or, in a plain ViT, of its embedding; there they are always 14 x 14,
  as here in all other models.

An image whose patches change places has lost its structure (section 3.4). The code gives a whole batch one permutation;
here every image has its own.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from transmix.attention import AttentionError, AttentionReader
from transmix.attention.find import unwrap
from transmix.data.dataset import ImageData
from transmix.data.seeding import derive_seed
from transmix.evaluation.accumulators import Accuracy, sum_over_ranks, top1
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.suites import Settings, Value
from transmix.recipes import RecipeError

WITHOUT_PATCHES = (14, 14)
"""The grid for models that do not keep one cut of the image into patches: that of the paper."""

GRIDS = (1, 2, 4, 8, 14, 16)
"""The published sizes, and 1: the image as it is."""


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


def shuffle(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield the grids (patches along each side), and the top-1 accuracy at each.

    Raises:
        RecipeError: a grid that does not divide the image.
    """
    side = evaluator.preprocessing.height_width[1]
    grids = settings.shuffle_grids or tuple(grid for grid in GRIDS if side % grid == 0)
    if wrong := [grid for grid in grids if grid < 1 or side % grid]:
        divisors = [grid for grid in range(2, side) if side % grid == 0]
        raise RecipeError(f"shuffle_grids {wrong} do not divide the image of {side} pixels; these do: {divisors}")
    return _measure_shuffled(evaluator, data, grids, settings.suite_seed)


def _measure_shuffled(
    evaluator: Evaluator, data: ImageData, grids: tuple[int, ...], seed: int
) -> Iterator[tuple[str, Value]]:
    scores = [Accuracy(len(evaluator.classes), evaluator.device) for _ in grids]
    for pixels, labels, index in evaluator.batches(data.val, "shuffle"):
        for score, grid in zip(scores, grids, strict=True):
            order = random_order(index, grid * grid, seed, "shuffle", grid).to(evaluator.device)
            score.update(evaluator.logits(shuffled(pixels, order, grid)), labels)
    yield "images", int(sum_over_ranks(scores[0]).count)
    yield "grids", list(grids)
    yield "top1", [top1(score) for score in scores]


def random_order(index: Tensor, patches: int, *key: int | str) -> Tensor:
    """Return a random order of P patches for each image, (b, P) int64; it depends only on the key and the index."""
    seeds = (derive_seed(*key, image) for image in index.tolist())
    orders = [np.random.Generator(np.random.Philox(seed)).permutation(patches) for seed in seeds]
    return torch.from_numpy(np.stack(orders))


def shuffled(pixels: Tensor, order: Tensor, grid: int) -> Tensor:
    """Return images (B, C, S, S) whose patch p is patch order[:, p] of the input."""
    batch, channels, side, _ = pixels.shape
    small = side // grid
    cut = pixels.view(batch, channels, grid, small, grid, small).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = cut[torch.arange(batch, device=pixels.device)[:, None], order]
    back = moved.view(batch, grid, grid, channels, small, small).permute(0, 3, 1, 4, 2, 5)
    return back.reshape(batch, channels, side, side)
