"""Features: what a model gives its classifier for each image. Suites and `transmix predict --features` read them here.

Features of training images are made as those of validation images: with the evaluation preprocessing, without
augmentation, and with the model in evaluation mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transmix.attention.find import unwrap
from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.seeding import derive_seed
from transmix.distributed import gather
from transmix.evaluation.evaluate import Evaluator, part_of
from transmix.evaluation.suites import Settings
from transmix.recipes import RecipeError

SIDE = 8
"""Side in pixels of the images that stand for the features of no model: 8 * 8 * 3 = 192 numbers."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, on the CPU, in the order of the images.

    Attributes:
        vectors: (N, D) float32, input of the model's classifier.
        pixels: (N, 192) float32, each image at 8 x 8 pixels, normalised: the baseline that needs no model.
        labels: (N,) int64.
    """

    vectors: Tensor
    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def classifier(model: Any) -> nn.Linear | nn.Identity:
    """Return the layer whose input are the features of a timm model: its classifier, or what stands in its place.

    Raises:
        RecipeError: the classifier is not one linear layer.
    """
    layer = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(layer, nn.Linear | nn.Identity):
        raise RecipeError(f"{type(model).__name__} has no single linear classifier, whose input would be its features")
    return layer


@contextmanager
def inputs_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect the input (B, D) of a layer in every forward; of None, nothing."""
    seen: list[Tensor] = []
    hook = layer and layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        if hook:
            hook.remove()


def probe_positions(data: ImageData, settings: Settings, suite: str) -> np.ndarray:
    """Return the training images that a suite fits on, ascending (n,) int64: all, or `probe_images` drawn at random.

    Raises:
        RecipeError: `probe_images` is below 1.
        DataError: there are no training images, or images to measure are among them.
    """
    if settings.probe_images < 1:
        raise RecipeError(f"probe_images must be at least 1, not {settings.probe_images}")
    generator = np.random.Generator(np.random.Philox(derive_seed(settings.suite_seed, "probe")))
    positions = np.sort(generator.permutation(len(data.train))[: settings.probe_images])
    train, val = (split.images if split.encoded is None else split.encoded for split in (data.train, data.val))
    shared = data.parts.held_out == "train" or val is train
    if hasattr(train, "where") and hasattr(val, "where"):
        measured = {data.val.where(index) for index in range(len(val))}
        shared = shared or not measured.isdisjoint(data.train.where(int(index)) for index in positions)
    if shared or not len(positions):
        what = f"measures ({data.parts.held_out}) images that it fits on" if shared else "has no training images"
        remedy = "give data with a part to train on and another to measure: --data FOLDER, or --split val"
        raise DataError(f"{data.name}: the suite {suite!r} {what}; {remedy}")
    return positions


def features_of(evaluator: Evaluator, split: Split, what: str) -> Features:
    """Run the model on a split; every process takes its share and gets the features of all images.

    Args:
        evaluator: the model. Test-time augmentation is not for features: they are the image's, not its mirror's.
        split: labels are indices into the data's classes.
        what: text of the progress bar.

    Raises:
        RecipeError: the model's features cannot be read.
        DataError: there is no readable image, or features are NaN or Inf.
    """
    model = unwrap(evaluator.model)  # a hook on a compiled model that has run before is not called
    parts = []
    with inputs_of(classifier(model)) as inputs, torch.no_grad():
        for pixels, labels, index in evaluator.batches(split, what):
            inputs.clear()
            with evaluator.autocast():
                model(pixels)
            if not inputs or inputs[-1].ndim != 2:
                raise RecipeError(f"{type(model).__name__} gives its classifier no single vector for each image")
            small = F.interpolate(pixels, size=(SIDE, SIDE), mode="area").flatten(1)
            parts.append((index, labels.cpu(), inputs[-1].float().cpu(), small.cpu()))
    found = joined(parts, evaluator)
    if not found:
        raise DataError(f"{what}: no image can be read")
    _, labels, vectors, small = found
    if broken := int((~vectors.isfinite().all(1)).sum()):
        raise DataError(f"{what}: the model's features of {broken} of {len(vectors)} images hold NaN or Inf")
    return Features(vectors, small, labels)


def joined(parts: list[tuple[Tensor, ...]], evaluator: Evaluator) -> list[Tensor]:
    """Join the parts of all processes, in the order of their first tensor (n,), an index; empty without any part."""
    mine = [torch.cat(column) for column in zip(*parts, strict=True)]
    everyone = [one for one in gather(mine, evaluator.world) if one]
    columns = [torch.cat(column) for column in zip(*everyone, strict=True)]
    order = columns[0].argsort() if columns else None
    return [column[order] for column in columns]


def both_features(evaluator: Evaluator, data: ImageData, positions: np.ndarray) -> tuple[Features, Features]:
    """Return the features of training images at the given positions (n,), and of all validation images.

    The evaluator keeps them: a second suite gets them without running the model again.

    Raises:
        RecipeError, DataError: as `features_of`.
    """
    key = data, positions.tobytes()
    if key not in evaluator.kept:
        splits = {"train": part_of(data.train, positions), "val": data.val}
        evaluator.kept[key] = tuple(features_of(evaluator, one, f"features of {of}") for of, one in splits.items())
    return evaluator.kept[key]


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the images whose class has the best score, and one of the five best: (2,) int64.

    A class of score -inf is never among the best. Of equal scores the lower class comes first.

    Args:
        scores: (N, K).
        labels: (N,) int64 in 0..K-1.
    """
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(1).masked_fill(own[:, 0].isneginf(), 5)
    return torch.stack([(ahead < 1).sum(), (ahead < 5).sum()])
