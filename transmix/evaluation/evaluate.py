"""All scores of a model on a data set in one pass; and a model on its device, with the loop of every suite."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from transmix import distributed
from transmix.attention.eval_mode import eval_mode
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData, Split
from transmix.data.grey_range import with_grey
from transmix.data.loader import choose_threads, choose_workers, evaluation_batches
from transmix.data.subset import take
from transmix.distributed import World, is_part
from transmix.evaluation.accumulators import Accuracy, CalibrationError, Confusion, CrossEntropy, sum_over_ranks
from transmix.metrics import added_metrics
from transmix.models.build import AMP
from transmix.models.loaded import LoadedModel, Preprocessing

LEFT_OUT = ("confusion", "reliability")
"""What `evaluate` finds and no table of scores has room for."""


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    num_classes: int,
    device: torch.device | str,
    *,
    normalise: Callable[[Tensor], Tensor],
    amp_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Measure a model on batches of labelled images.

    If a process group is initialised, every rank calls this with its own share of the data, however large or
    small (none at all too), and every rank gets the result for the whole.

    Args:
        model: Gives logits (B, K) for images. Every module is in evaluation mode meanwhile, and back in its
            own mode after, also if something raises.
        batches: Gives (images, labels, valid): images (B, 3, H, W), uint8 or float; labels (B,) int64; valid
            (B,) bool, False for rows that only fill up the batch, or None if all count. Padding rows pass the
            model, so that shapes stay the same, but no metric. Keep `valid` on the CPU: on a GPU it costs a
            host read a batch.
        num_classes: K.
        device: Where the model is; batches are moved there.
        normalise: Makes the model's float input of the images as they came, on the device.
        amp_dtype: Type for autocast, e.g. torch.bfloat16; None for none.

    Returns:
        'images', their number; 'loss' in nats; 'nonfinite_logits', a number of images; 'top1', 'top5',
        'calibration_error' in 0..1; 'reliability', see `CalibrationError.reliability`; 'per_class_accuracy', K numbers
        in 0..1, nan for a class without images; 'confusion', (K, K) counts; and the metrics that installed packages
        add, by their names.

    Raises:
        ValueError: If no rank has an image that counts, or shapes do not fit.
        TypeError: If `normalise` does not give floating point, or labels are not int64.
    """
    device = torch.device(device)
    if isinstance(model, DistributedDataParallel):
        # its forward broadcasts buffers, and waits for ever where ranks differ in their number of batches
        model = model.module
    accuracy, calibration = Accuracy(num_classes, device), CalibrationError(num_classes, device)
    accumulators = (CrossEntropy(num_classes, device), accuracy, calibration, Confusion(num_classes, device))
    added = {name: metric.accumulator(num_classes, device) for name, metric in added_metrics().items()}  # type: ignore[misc]
    # Of a sharded model, weights that are put together in inference mode could not be trained afterwards.
    sharded = any(map(is_part, model.parameters()))
    with eval_mode(model), torch.no_grad() if sharded else torch.inference_mode():
        for logits, labels in _answers(model, batches, device, normalise, amp_dtype):
            for accumulator in (*accumulators, *added.values()):
                accumulator.update(logits, labels)

    images_seen = int(sum_over_ranks(accuracy).count)
    if images_seen == 0:
        raise ValueError("nothing to evaluate: the evaluation set gave no image that counts, on any rank")
    scores: dict[str, Any] = {"images": images_seen}
    for accumulator in accumulators:
        scores.update(sum_over_ranks(accumulator).compute())
    for name, accumulator in added.items():
        scores[name] = dict(sum_over_ranks(accumulator).compute())[name]
    scores["reliability"] = sum_over_ranks(calibration).reliability()
    return scores


def _answers(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    device: torch.device,
    normalise: Callable[[Tensor], Tensor],
    amp_dtype: torch.dtype | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of the rows that count."""
    for images, labels, valid in batches:
        pixels = normalise(images.to(device, non_blocking=True))
        if not pixels.is_floating_point():
            raise TypeError(f"normalise must give floating point images, got {pixels.dtype}")
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = model(pixels)
        labels = labels.to(device, non_blocking=True)
        if valid is not None:
            if valid.shape != labels.shape or valid.dtype != torch.bool:
                raise ValueError(f"expected valid {tuple(labels.shape)} bool, got {tuple(valid.shape)} {valid.dtype}")
            rows = valid.nonzero().squeeze(1).to(device, non_blocking=True)
            logits, labels = logits[rows], labels[rows]
        yield logits, labels


@dataclass(frozen=True)
class Evaluator:
    """One set of weights on its device, and how images are run through it.

    Attributes:
        loaded: the model, moved to the device of `world`, with its class names.
        world: this process among all that measure together, and its device.
        batch_size: images at once.
        workers: processes that load images; None: what the cores allow.
        amp_dtype: for autocast; None for none.
        bad: which images cannot be read, and how many may be; None: none.
    """

    loaded: LoadedModel
    world: World
    batch_size: int = 128
    workers: int | None = None
    amp_dtype: torch.dtype | None = None
    bad: BadImages | None = None

    @property
    def name(self) -> str:
        """Which weights: "model", "ema"."""
        return self.loaded.name

    @property
    def model(self) -> nn.Module:
        """Gives logits (B, K) for normalised images."""
        return self.loaded.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The K names of the logits' columns."""
        return self.loaded.classes or ()

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the model's input."""
        return self.loaded.preprocessing

    @property
    def device(self) -> torch.device:
        """Where the model is."""
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
        """Yield this process's share of a split, without images that cannot be read.

        Args:
            split: labels are positions in `classes`.
            what: is being measured, for the progress bar.

        Yields:
            pixels (b, 3, S, S) float32, normalised, and labels (b,) int64, both on the device; index (b,) int64, on
            the CPU, the images' positions in the split, which random numbers are keyed by.
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
        """Return the model's logits (b, K) float32 for pixels (b, 3, S, S) as `batches` gives them."""
        with self.autocast():
            return self.model(pixels).float()

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs."""
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
    """Bring models to the device; under torchrun, join the other processes.

    Args:
        models: with class names, as `load_with_data` gives them.
        batch_size: images at once.
        device: "auto", "cpu", "cuda", ...
        workers: processes that load images; None: what the cores allow.
        amp: "none", "bf16" or "fp16".
        compile: torch.compile the models.
        bad: how many images may be unreadable, and which are; None: none may.

    Raises:
        RecipeError: a device that this machine does not have, or processes that cannot find each other.
    """
    world = distributed.start(device)
    ready = []
    for one in models:
        model: Any = one.model.to(world.device)
        model = torch.compile(model) if compile else model
        ready.append(Evaluator(replace(one, model=model), world, batch_size, workers, AMP[amp], bad))
    return ready


def score(evaluators: Sequence[Evaluator], data: ImageData) -> dict[str, dict[str, Any]]:
    """Return the scores of each set of weights on a data set's validation split, but for `LEFT_OUT`.

    Images that cannot be read are left out, as far as `bad` allows, and are known to it then.
    """
    scores = {}
    for one in evaluators:
        how: dict[str, Any] = {"normalise": one.preprocessing.normaliser(one.device), "amp_dtype": one.amp_dtype}
        found = evaluate(one.model, one.load(data.val), len(one.classes), one.device, **how)
        scores[one.name] = {metric: value for metric, value in found.items() if metric not in LEFT_OUT}
    return scores


def part_of(split: Split, positions: np.ndarray) -> Split:
    """Take the images of a split at some positions, (n,) int64, without masks."""
    return replace(take(split, positions), masks=None)
