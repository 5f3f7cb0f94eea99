"""All scores of a model on a data set in one pass; and a model on its device, with the loop of every suite."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
from transmix.evaluation.present import AmongPresent
from transmix.evaluation.tta import TTA, FlipMean
from transmix.metrics import added_metrics
from transmix.models.build import AMP
from transmix.models.loaded import LoadedModel, Preprocessing
from transmix.recipes import RecipeError

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
    present: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Measure a model on batches of labelled images.

    In a process group every rank calls this with its share of the data (may be empty), and gets the result for all.

    Args:
        model: Returns logits (B, K) for images. Each module's mode is restored at the end, also after an exception.
        batches: Yields (images, labels, valid): images (B, 3, H, W), uint8 or float; labels (B,) int64; valid (B,)
            bool, False for padding rows, or None if all count. Padding rows go through the model, so that shapes stay
            the same, but do not count. Keep `valid` on the CPU: on a GPU it costs a device synchronisation per batch.
        num_classes: K.
        device: Device of the model; batches are moved there.
        normalise: Converts images to the model's float input, on the device.
        amp_dtype: Autocast dtype, e.g. torch.bfloat16; None: no autocast.
        present: The m classes of the images, if some of the K have none; None: do not measure among them alone.

    Returns:
        'images', their number; 'loss' in nats; 'nonfinite_logits', a number of images; 'top1', 'top5',
        'calibration_error' in 0..1; 'reliability', see `CalibrationError.reliability`; 'per_class_accuracy', K numbers
        in 0..1, nan for a class without images; 'confusion', (K, K) counts; the metrics that installed packages add,
        by their names; and with `present` 'among_present', the scores of the logits of these m classes alone.

    Raises:
        ValueError: No rank has a valid image, or shapes do not fit.
        TypeError: `normalise` does not return floating point, or labels are not int64.
    """
    device = torch.device(device)
    if isinstance(model, DistributedDataParallel):
        # its forward broadcasts buffers, and waits for ever where ranks differ in their number of batches
        model = model.module
    accuracy, calibration = Accuracy(num_classes, device), CalibrationError(num_classes, device)
    accumulators = (CrossEntropy(num_classes, device), accuracy, calibration, Confusion(num_classes, device))
    added = {name: metric.accumulator(num_classes, device) for name, metric in added_metrics().items()}  # type: ignore[misc]
    among = () if present is None else (AmongPresent(present, num_classes, device),)
    # Of a sharded model, weights that are put together in inference mode could not be trained afterwards.
    sharded = any(map(is_part, model.parameters()))
    with eval_mode(model), torch.no_grad() if sharded else torch.inference_mode():
        for logits, labels in _answers(model, batches, device, normalise, amp_dtype):
            for accumulator in (*accumulators, *added.values(), *among):
                accumulator.update(logits, labels)

    images_seen = int(sum_over_ranks(accuracy).count)
    if images_seen == 0:
        raise ValueError("nothing to evaluate: no rank has a valid image")
    scores: dict[str, Any] = {"images": images_seen}
    for accumulator in accumulators:
        scores.update(sum_over_ranks(accumulator).compute())
    for name, accumulator in added.items():
        scores[name] = dict(sum_over_ranks(accumulator).compute())[name]
    scores["reliability"] = sum_over_ranks(calibration).reliability()
    return scores | ({"among_present": among[0].compute()} if among else {})


def _answers(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    device: torch.device,
    normalise: Callable[[Tensor], Tensor],
    amp_dtype: torch.dtype | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of the valid rows."""
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
class Computing:
    """How a model is run on images."""

    batch_size: int = 128
    """Images per batch."""
    device: str = "auto"
    """'auto': cuda if there is a GPU, else cpu."""
    workers: int | None = None
    """Number of loader workers; None: chosen from the CPU cores."""
    threads: int | None = None
    """CPU threads of torch; None: OMP_NUM_THREADS, else the cores not used by loader workers."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type."""
    compile: bool = False
    """torch.compile the model."""
    tta: TTA = "none"
    """Test-time augmentation. 'flip': the mean of the softmax probabilities of the image and its mirror; costs twice
    the time."""


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
        threads: CPU threads of torch; None: chosen.
        tta: test-time augmentation of all answers.
        kept: what a suite keeps for those that follow, by its key.
    """

    loaded: LoadedModel
    world: World
    batch_size: int = 128
    workers: int | None = None
    amp_dtype: torch.dtype | None = None
    bad: BadImages | None = None
    threads: int | None = None
    tta: TTA = "none"
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the weights: "model" or "ema"."""
        return self.loaded.name

    @property
    def model(self) -> nn.Module:
        """The model: normalised images -> logits (B, K)."""
        return self.loaded.model

    @property
    def answer(self) -> nn.Module:
        """The model with its test-time augmentation: normalised images -> logits (B, K)."""
        return FlipMean(self.model) if self.tta == "flip" else self.model

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
        workers = self.choose_workers(isinstance(split.images, np.ndarray | list))
        return evaluation_batches(split, seen.crop, self.batch_size, workers, pin, (world.rank, world.size), self.bad)

    def choose_workers(self, in_memory: bool) -> int:
        """Return the number of loader workers, and set torch's CPU threads to match."""
        workers = choose_workers(self.workers, in_memory, self.world.local)
        if self.device.type == "cpu":
            torch.set_num_threads(choose_threads(self.threads, workers, self.world.local))
        return workers

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
        """Return the answer's logits (b, K) float32 for pixels (b, 3, S, S) from `batches`."""
        with self.autocast():
            return self.answer(pixels).float()

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the model."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)


def prepare(models: Sequence[LoadedModel], *, bad: BadImages | None = None, **computing: Any) -> list[Evaluator]:
    """Move models to the device; under torchrun, join the other processes.

    Args:
        models: with class names, from `load_with_data`.
        bad: collects unreadable images and limits them; None: none allowed.
        computing: fields of `Computing`.

    Raises:
        RecipeError: the device does not exist on this machine, or the processes cannot connect.
    """
    how = Computing(**computing)
    for name in ("batch_size", "threads"):
        value = getattr(how, name)
        if value is not None and value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    world = distributed.start(how.device)
    ready = []
    for one in models:
        model: Any = one.model.to(world.device)
        model = torch.compile(model) if how.compile else model
        settings = how.batch_size, how.workers, AMP[how.amp], bad, how.threads, how.tta
        ready.append(Evaluator(replace(one, model=model), world, *settings))
    return ready


def score(evaluators: Sequence[Evaluator], data: ImageData) -> dict[str, dict[str, Any]]:
    """Return the scores of each set of weights on a data set's validation split, without `LEFT_OUT`.

    Unreadable images are skipped and recorded in `bad`, up to its limit. If it has images of some classes only, the
    scores hold 'among_present' too.
    """
    scores: dict[str, dict[str, Any]] = {}
    present = np.unique(data.val.labels).tolist()
    for one in evaluators:
        how: dict[str, Any] = {"normalise": one.preprocessing.normaliser(one.device), "amp_dtype": one.amp_dtype}
        how["present"] = present if len(present) < len(one.classes) else None
        found = evaluate(one.answer, one.load(data.val), len(one.classes), one.device, **how)
        scores[one.name] = {metric: value for metric, value in found.items() if metric not in LEFT_OUT}
    return scores


def part_of(split: Split, positions: np.ndarray) -> Split:
    """Return the images of a split at the given indices, (n,) int64, without masks."""
    return replace(take(split, positions), masks=None)
