"""The suite 'segmentation-probe': a linear layer on frozen patch tokens tells foreground from background.

The layer is logistic regression of patches: a patch whose pixels are 70 % foreground counts as 0.7 of a foreground
patch and 0.3 of a background patch. That is convex, so nothing is tuned. Its logits are upsampled to the pixels of the
mask. The protocol follows the linear segmentation of DINOv2 (Oquab et al., TMLR 2024), which trains its layer by SGD.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.attention.find import unwrap
from transmix.data.dataset import DataError, ImageData
from transmix.data.masks import BACKGROUND, FOREGROUND, UNSURE, Masks, crop_mask, open_masks
from transmix.data.seeding import derive_seed
from transmix.distributed import gather
from transmix.evaluation.accumulators import sum_tensor
from transmix.evaluation.evaluate import Evaluator, part_of
from transmix.evaluation.features import joined, probe_positions
from transmix.evaluation.logistic import Logistic, fit_logistic
from transmix.evaluation.suites import Settings, Value
from transmix.labels.patches import mask_on_patches
from transmix.recipes import RecipeError

PATCHES = 50_000
"""Patches that the layer is fitted on, at most, or one an image; as many of each image, drawn at random."""

KINDS = (BACKGROUND, FOREGROUND)


def patch_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Return the patch tokens of images (B, 3, H, W) behind the last norm: (B, D, h, w) float32.

    Raises:
        RecipeError: the model has no such method of timm's.
    """
    if not hasattr(model, "forward_intermediates"):
        what = f"{type(model).__name__} has no forward_intermediates, timm's way to its patch tokens"
        raise RecipeError(f"{what}; take a model of timm's that has it, or leave the suite 'segmentation-probe' out")
    (tokens,) = model.forward_intermediates(pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    return tokens.float()


def shares_on_patches(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch that is background, and foreground: (B, h * w, 2) float32, without unsure pixels.

    Args:
        masks: (B, H, W) uint8, from `crop_mask`.
        grid: (h, w).
    """
    return torch.stack([mask_on_patches(masks == kind, grid, "fraction").flatten(1) for kind in KINDS], dim=-1)


def confusion(logits: Tensor, masks: Tensor) -> Tensor:
    """Count pixels by their true kind (row) and the kind found (column), (2, 2) int64; unsure pixels do not count.

    Args:
        logits: (B, h, w), of foreground over background; above 0 is foreground. They are upsampled bilinearly.
        masks: (B, H, W) uint8.
    """
    size = masks.shape[-2], masks.shape[-1]
    found = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0
    sure = masks != UNSURE
    return torch.bincount(2 * masks[sure].long() + found[sure], minlength=4).view(2, 2)


def scores(counts: Tensor) -> dict[str, float]:
    """Return scores from counts (2, 2) of all images, fractions in 0..1.

    'iou_background', 'iou_foreground', their mean 'miou', and 'pixel_accuracy'; the IoU of a kind that is neither there
    nor found is nan.
    """
    counts = counts.double().cpu()
    right = counts.diagonal()
    background, foreground = (right / (counts.sum(0) + counts.sum(1) - right)).tolist()
    means = {"miou": (background + foreground) / 2, "pixel_accuracy": float(right.sum() / counts.sum())}
    return means | {"iou_foreground": foreground, "iou_background": background}


def segmentation_probe(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield how well a linear layer on the model's patch tokens finds the foreground, as fractions in 0..1.

    'miou'             mean IoU of foreground and background, from the pixels of all validation images together;
                       'iou_foreground', 'iou_background'; 'pixel_accuracy'
    '..._position'     the same scores of a layer that sees where a patch is and not what it shows
    '..._constant'     the same of the better of two answers: all is background, all is foreground

    Raises:
        DataError: the data has no masks or no training images, or measures those that it is fitted on.
        RecipeError: the model's patch tokens cannot be read, or a setting is out of range.
    """
    train_masks, val_masks = open_masks(data, "train"), open_masks(data)
    positions = probe_positions(data, settings, "segmentation-probe")
    return _measure(evaluator, data, positions, (train_masks, val_masks), settings.suite_seed)


def _measure(
    evaluator: Evaluator, data: ImageData, positions: np.ndarray, masks: tuple[Masks, Masks], seed: int
) -> Iterator[tuple[str, Value]]:
    tokens, shares, of_position = _patches(evaluator, data, positions, masks[0], seed)
    layer = fit_logistic(tokens.to(evaluator.device), shares.to(evaluator.device), len(KINDS))
    counts = _count(evaluator, data, masks[1], layer, of_position.to(evaluator.device))
    yield "train_images", len(positions)
    yield "images", len(data.val)
    yield "patches", len(tokens)
    yield from scores(counts["probe"]).items()
    constant = max((counts["background"], counts["foreground"]), key=lambda one: scores(one)["miou"])
    for name, of_name in (("position", counts["position"]), ("constant", constant)):
        yield from ((f"{score}_{name}", value) for score, value in scores(of_name).items())
    if not layer.converged:
        yield "note", "the search ended before the minimum: the score may be too low"


def _batches(
    evaluator: Evaluator, data: ImageData, positions: np.ndarray | None, masks: Masks
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images of this process: patch tokens (b, D, h, w) and masks (b, H, W) on the device, and index (b,).

    The images are the training images at the given positions; None: all validation images.
    """
    model, crop = unwrap(evaluator.model), evaluator.preprocessing.crop
    part, split = ("val", data.val) if positions is None else ("train", part_of(data.train, positions))
    for pixels, _, index in evaluator.batches(split, f"patches of {part}"):
        with torch.no_grad(), evaluator.autocast():
            tokens = patch_tokens(model, pixels)
        if not tokens.isfinite().all():
            raise DataError(f"{data.name}: the model's patch tokens hold NaN or Inf")
        index = index if positions is None else torch.from_numpy(positions)[index]
        yield tokens, torch.stack([crop_mask(masks(int(one)), crop) for one in index]).to(tokens.device), index


def _patches(
    evaluator: Evaluator, data: ImageData, positions: np.ndarray, masks: Masks, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw patches of the training images, the same in every process; and find what position alone says.

    Returns:
        tokens (n, D) float32 and shares (n, 2) of background and foreground, on the CPU; logits (h, w) of position.
    """
    parts, totals = [], []
    for tokens, cropped, index in _batches(evaluator, data, positions, masks):
        grid = tokens.shape[-2], tokens.shape[-1]
        shares = shares_on_patches(cropped, grid)
        totals.append(shares.double().sum(0).cpu().view(*grid, 2))
        drawn = torch.stack([draw(grid[0] * grid[1], len(positions), seed, int(one)) for one in index]).to(
            tokens.device
        )
        of_image = (tokens.flatten(2).transpose(1, 2), shares)
        parts.append(
            (index, *(one.gather(1, drawn[..., None].expand(-1, -1, one.shape[-1])).cpu() for one in of_image))
        )
    found = joined(parts, evaluator)
    total: Any = sum(one for of_process in gather(totals, evaluator.world) for one in of_process)
    if not found:
        raise DataError(f"{data.name}: no training image can be read")
    if not (total.sum((0, 1)) > 0).all():
        raise DataError(f"{data.name}: the masks of the training images show no foreground, or no background")
    background, foreground = (total + 0.5).unbind(-1)  # a place that is never foreground has finite odds
    return found[1].flatten(0, 1), found[2].flatten(0, 1), (foreground / background).log()


def draw(patches: int, images: int, seed: int, index: int) -> Tensor:
    """Return which of an image's patches the layer is fitted on: (n,) int64; all, if all images' make `PATCHES`."""
    count = min(patches, max(1, PATCHES // images))
    if count == patches:
        return torch.arange(patches)
    generator = torch.Generator().manual_seed(derive_seed(seed, "segmentation-probe", index))
    return torch.randperm(patches, generator=generator)[:count]


def _count(
    evaluator: Evaluator, data: ImageData, masks: Masks, layer: Logistic, of_position: Tensor
) -> dict[str, Tensor]:
    """Return the pixels (2, 2) of all validation images by true kind and answer, for each who answers."""
    names = ("probe", "position", "background", "foreground")
    total = torch.zeros(len(names), 2, 2, dtype=torch.int64, device=evaluator.device)
    for tokens, cropped, _ in _batches(evaluator, data, None, masks):
        logits = layer(tokens.movedim(1, -1))
        of_place = of_position.to(logits).expand(len(tokens), -1, -1)
        one = torch.ones_like(of_place)
        answers = (logits[..., 1] - logits[..., 0], of_place, -one, one)
        total += torch.stack([confusion(answer, cropped) for answer in answers])
    total = sum_tensor(total).cpu()
    if not (total[0].sum(1) > 0).all():
        raise DataError(f"{data.name}: the masks of the validation images show no foreground, or no background")
    return dict(zip(names, total, strict=True))
