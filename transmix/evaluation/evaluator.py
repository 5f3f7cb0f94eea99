"""A model on its device, and the evaluation loop shared by all suites."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from transmix import distributed
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData, Split
from transmix.data.grey_range import with_grey
from transmix.data.loader import choose_threads, choose_workers, evaluation_batches
from transmix.data.subset import take
from transmix.distributed import World
from transmix.evaluation.evaluate import evaluate
from transmix.models.build import AMP
from transmix.models.loaded import LoadedModel, Preprocessing

LEFT_OUT = ("confusion", "reliability")
"""What `evaluate` finds and no table of scores has room for."""


@dataclass(frozen=True)
class Evaluator:
    """One set of weights on its device, with its data loading and preprocessing.

    Attributes:
        loaded: the model, moved to the device of `world`, with its class names.
        world: rank and device of this process.
        batch_size: images per batch.
        workers: number of loader workers; None: chosen from the CPU cores.
        amp_dtype: autocast dtype; None: no autocast.
        bad: collects unreadable images and limits them; None: none allowed.
    """

    loaded: LoadedModel
    world: World
    batch_size: int = 128
    workers: int | None = None
    amp_dtype: torch.dtype | None = None
    bad: BadImages | None = None

    @property
    def name(self) -> str:
        """Name of the weights: "model" or "ema"."""
        return self.loaded.name

    @property
    def model(self) -> nn.Module:
        """The model: normalised images -> logits (B, K)."""
        return self.loaded.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names of the logits' columns."""
        return self.loaded.classes or ()

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of images for the model."""
        return self.loaded.preprocessing

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.world.device

    def load(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield this process's share of a split as `evaluation_batches` does: (images uint8, labels, valid)."""
        world, pin, seen = self.world, self.device.type == "cuda", self.preprocessing
        split = split if seen.grey is None else with_grey(split, seen.grey)
        in_memory = isinstance(split.images, np.ndarray | list)
        workers = choose_workers(self.workers, in_memory, world.local)
        if self.device.type == "cpu":
            torch.set_num_threads(choose_threads(None, workers, world.local))
        return evaluation_batches(split, seen.crop, self.batch_size, workers, pin, (world.rank, world.size), self.bad)

    def batches(self, split: Split, what: str = "") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's share of a split, without unreadable images.

        Args:
            split: labels are indices into `classes`.
            what: text of the progress bar.

        Yields:
            pixels (b, 3, S, S) float32, normalised, and labels (b,) int64, both on the device; index (b,) int64, on the
            CPU, the images' indices in the split, used as key of random numbers.
        """
        normalise = self.preprocessing.normaliser(self.device)
        place = self.world.rank
        share = len(range(self.world.rank, len(split), self.world.size))
        title, steps = f"{what} {self.name}".strip(), -(-share // self.batch_size)
        hidden = None if self.world.is_main else True  # None: unless in a terminal
        bar = tqdm(self.load(split), title, steps, leave=False, unit="batch", disable=hidden)
        for images, labels, valid in bar:
            index = torch.arange(len(labels)) * self.world.size + place
            place += len(labels) * self.world.size
            if valid is not None:
                images, labels, index = images[valid], labels[valid], index[valid]
            if len(labels):
                yield normalise(images), labels.to(self.device, non_blocking=True), index

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Return the model's logits (b, K) float32 for pixels (b, 3, S, S) from `batches`."""
        with self.autocast():
            return self.model(pixels).float()

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the model."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)


def prepare(
    models: Sequence[LoadedModel],
    *,
    batch_size: int = 128,
    device: str = "auto",
    workers: int | None = None,
    amp: str = "none",
    compile: bool = False,
    bad: BadImages | None = None,
) -> list[Evaluator]:
    """Move models to the device; under torchrun, join the other processes.

    Args:
        models: with class names, from `load_with_data`.
        batch_size: images per batch.
        device: "auto", "cpu", "cuda", ...
        workers: number of loader workers; None: chosen from the CPU cores.
        amp: "none", "bf16" or "fp16".
        compile: torch.compile the models.
        bad: collects unreadable images and limits them; None: none allowed.

    Raises:
        RecipeError: the device does not exist on this machine, or the processes cannot connect.
    """
    world = distributed.start(device)
    ready = []
    for one in models:
        model: Any = one.model.to(world.device)
        model = torch.compile(model) if compile else model
        ready.append(Evaluator(replace(one, model=model), world, batch_size, workers, AMP[amp], bad))
    return ready


def score(evaluators: Sequence[Evaluator], data: ImageData) -> dict[str, dict[str, Any]]:
    """Return the scores of each set of weights on a data set's validation split, without `LEFT_OUT`.

    Unreadable images are skipped and recorded in `bad`, up to its limit.
    """
    scores = {}
    for one in evaluators:
        found = evaluate(
            one.model,
            one.load(data.val),
            len(one.classes),
            one.device,
            normalise=one.preprocessing.normaliser(one.device),
            amp_dtype=one.amp_dtype,
        )
        scores[one.name] = {metric: value for metric, value in found.items() if metric not in LEFT_OUT}
    return scores


def part_of(split: Split, positions: np.ndarray) -> Split:
    """Return the images of a split at the given indices, (n,) int64, without masks."""
    return replace(take(split, positions), masks=None)
