"""A model that is ready to be measured, and the way that every suite runs images through it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from transmix.data.bad_images import BadImages
from transmix.data.dataset import Split
from transmix.data.grey import Grey
from transmix.data.grey_range import with_grey
from transmix.data.loader import choose_threads, choose_workers, evaluation_batches
from transmix.data.subset import take
from transmix.distributed import World
from transmix.models.build import normaliser


@dataclass(frozen=True)
class OpenedModel:
    """One set of a subject's weights, on its device and in evaluation mode.

    Attributes:
        name: which weights: "model", "ema".
        model: gives logits (B, K) for normalised images.
        classes: the K names that the columns of the logits have.
        crop: (H, W, 3) uint8 array -> (3, S, S) uint8 tensor.
        mean_std: of the model's input, per colour channel, of pixels in 0..1.
        world: this process among all that measure together, and its device.
        batch_size: images at once.
        workers: processes that load images; None: what the cores allow.
        amp_dtype: for autocast; None for none.
        bad: which images cannot be read, and how many may be; None: none.
        grey: how greyscale of more than 8 bits is scaled; None: as each data set says itself.
    """

    name: str
    model: nn.Module
    classes: tuple[str, ...]
    crop: Callable
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]
    world: World
    batch_size: int = 128
    workers: int | None = None
    amp_dtype: torch.dtype | None = None
    bad: BadImages | None = None
    grey: Grey = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.world.device

    def loaded(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield this process's share of a split as `evaluation_batches` does: (images uint8, labels, valid)."""
        world, pin = self.world, self.device.type == "cuda"
        split = split if self.grey is None else with_grey(split, self.grey)
        in_memory = isinstance(split.images, np.ndarray | list)
        workers = choose_workers(self.workers, in_memory, world.local)
        if self.device.type == "cpu":
            torch.set_num_threads(choose_threads(None, workers, world.local))
        return evaluation_batches(split, self.crop, self.batch_size, workers, pin, (world.rank, world.size), self.bad)

    def batches(self, split: Split, what: str = "") -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's share of a split, without images that cannot be read.

        Args:
            split: labels are positions in `classes`.
            what: is being measured, for the progress bar.

        Yields:
            pixels (b, 3, S, S) float32, normalised, and labels (b,) int64, both on the device; index (b,) int64, on
            the CPU, the images' positions in the split, which random numbers are keyed by.
        """
        normalise = normaliser(*self.mean_std, self.device, channels_last=False)
        place = self.world.rank
        for images, labels, valid in self._shown(split, what):
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

    def _shown(self, split: Split, what: str) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Load with a bar in a terminal, for the first process."""
        batches = self.loaded(split)
        if not (self.world.is_main and sys.stderr.isatty()):
            return batches
        from tqdm import tqdm

        share = len(range(self.world.rank, len(split), self.world.size))
        return iter(
            tqdm(batches, f"{what} {self.name}".strip(), -(-share // self.batch_size), leave=False, unit="batch")
        )


def part_of(split: Split, positions: np.ndarray) -> Split:
    """Take the images of a split at some positions, (n,) int64, without masks."""
    return replace(take(split, positions), masks=None)
