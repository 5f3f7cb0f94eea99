"""The suite 'shuffle': accuracy on images with shuffled patches, which destroys their structure.

Source: Naseer et al., Intriguing Properties of Vision Transformers (NeurIPS 2021, arXiv 2105.10497), section 3.4, and
its code. The code uses one permutation for a whole batch; here every image has its own.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from transmix.data.dataset import ImageData
from transmix.data.seeding import derive_seed
from transmix.evaluation.accumulators import Accuracy, sum_over_ranks, top1
from transmix.evaluation.evaluator import Evaluator
from transmix.evaluation.suites import Settings, Value
from transmix.recipes import RecipeError

GRIDS = (1, 2, 4, 8, 14, 16)
"""The published sizes, and 1: the image as it is."""


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
    return _measure(evaluator, data, grids, settings.suite_seed)


def _measure(evaluator: Evaluator, data: ImageData, grids: tuple[int, ...], seed: int) -> Iterator[tuple[str, Value]]:
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
    orders = [
        np.random.Generator(np.random.Philox(derive_seed(*key, image))).permutation(patches) for image in index.tolist()
    ]
    return torch.from_numpy(np.stack(orders))


def shuffled(pixels: Tensor, order: Tensor, grid: int) -> Tensor:
    """Return images (B, C, S, S) whose patch p is patch order[:, p] of the input."""
    batch, channels, side, _ = pixels.shape
    small = side // grid
    cut = pixels.view(batch, channels, grid, small, grid, small).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = cut[torch.arange(batch, device=pixels.device)[:, None], order]
    back = moved.view(batch, grid, grid, channels, small, small).permute(0, 3, 1, 4, 2, 5)
    return back.reshape(batch, channels, side, side)
