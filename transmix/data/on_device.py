"""A data set that lies decoded on the device, where its batches are cut and augmented too.

For small images the loader, image by image, takes longer than a small model. What a sample looks like follows from
its key, as in the loader; the two draw other numbers from it, of the same distribution.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from transmix.data.augment import EvaluationCrop, fit, to_tensor
from transmix.data.bad_images import BadImages
from transmix.data.batch_augment import BatchAugmentation, Draws
from transmix.data.dataset import ImageData, Split, UnreadableImageError, size_of
from transmix.data.loader import TrainingSamples, evaluation_batches
from transmix.data.sampler import EpochSampler, SampleKey
from transmix.data.settings import Augmentation
from transmix.error import RecipeError

BLOCK = 8192
"""Samples that are drawn for at once: the device is told of few large draws rather than of many small ones."""

PIECE = 1024
"""Images that go to the device at once."""


def kept_size(split: Split, crop: str, size: int) -> tuple[int, int]:
    """Return height and width at which training images are kept.

    Raises:
        RecipeError: crop 'random-resized' sees images at their own size, and their sizes differ.
    """
    if crop != "random-resized":
        return size, size
    if isinstance(split.images, np.ndarray):
        return split.images.shape[1], split.images.shape[2]
    found = (size_of(split.images, index) for index in range(len(split)) if index not in split.bad)
    sizes = {one for one in found if one is not None}
    if len(sizes) > 1:
        (low_height, low_width), (high_height, high_width) = min(sizes), max(sizes)
        raise RecipeError(
            f"on_device with crop random-resized needs images of one size, but they go from {low_height} x {low_width} "
            f"to {high_height} x {high_width} pixels (height x width); take --crop pad, for which images are resized "
            f"to image_size {size} once, or leave --on-device out"
        )
    return sizes.pop() if sizes else (size, size)


def check_memory(train: int, source: tuple[int, int], val: int, size: int, device: torch.device | str) -> None:
    """Check that images fit on the device.

    Args:
        train: number of training images.
        source: height and width at which they are kept.
        val: number of validation images.
        size: side at which those are kept.
        device: where to.

    Raises:
        RecipeError: they do not.
    """
    free = free_memory(torch.device(device))
    needed = 3 * (train * source[0] * source[1] + val * size * size)
    if free is not None and needed > free:
        raise RecipeError(
            f"on_device needs {needed / 1e6:,.1f} MB for {train} training images of {source[0]} x {source[1]} and "
            f"{val} validation images of {size} x {size} pixels, but {device} has {free / 1e6:,.1f} MB free; take a "
            f"smaller --image-size, or leave --on-device out"
        )


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free on a device; None if it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), None)
    except OSError:  # not on Linux
        return None


def keep(
    split: Split, change: Callable, size: tuple[int, int], device: torch.device | str, met: BadImages
) -> tuple[Tensor, dict[int, UnreadableImageError]]:
    """Decode images and bring them to the device, (n, 3, H, W) uint8; name those that cannot be read, which are black.

    Args:
        split: the images.
        change: (h, w, 3) uint8 array -> (3, H, W) uint8 tensor.
        size: H and W.
        device: where to.
        met: is told of images that cannot be read, and says how many may be.

    Raises:
        DataError: more cannot be read.
    """
    bad: dict[int, UnreadableImageError] = {}

    def image(index: int) -> Tensor:
        try:
            return change(split.image(index))
        except UnreadableImageError as error:
            met.add([(error.where, error.reason)])
            bad[index] = UnreadableImageError(error.where, error.reason)  # without the frames that hold the file
            return torch.zeros(3, *size, dtype=torch.uint8)

    images = torch.empty(len(split), 3, *size, dtype=torch.uint8, device=device)
    for start in range(0, len(split), PIECE):
        piece = range(start, min(start + PIECE, len(split)))
        images[start : piece.stop] = torch.stack([image(index) for index in piece]).to(device)
    return images, bad


class TrainingImages:
    """Training images on the device, (N, 3, H, W) uint8, and their augmentation.

    Crops 'pad' and 'none' see every image at S x S, to which it is resized once; 'random-resized' at its own size.

    Args:
        split: N images.
        settings: the augmentation, without `rand_augment`.
        size: S.
        seed: of the run.
        device: where to.
        met: Is told of images that cannot be read, and says how many may be; None: none. Another one stands in for
            each, the same as in the loader.
        compiled: Compile what is done to a batch, which changes no bit. A CPU is faster without.

    Raises:
        RecipeError: crop 'random-resized' of images whose sizes differ.
        DataError: more images cannot be read than `met` allows.
    """

    def __init__(
        self,
        split: Split,
        settings: Augmentation,
        size: int,
        seed: int,
        device: torch.device | str,
        met: BadImages | None = None,
        compiled: bool = False,
    ):
        source = kept_size(split, settings.crop, size)
        change = to_tensor if settings.crop == "random-resized" else lambda image: to_tensor(fit(image, size))
        self.images, self.bad = keep(split, change, source, device, met or BadImages())
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64)).to(device)
        self.augment = BatchAugmentation(settings, source, size, seed, device)
        self.change = torch.compile(self.augment.apply, fullgraph=True) if compiled else self.augment.apply
        self.instead = TrainingSamples(replace(split, bad=self.bad), to_tensor, seed)
        self.device = torch.device(device)

    def batch(self, samples: list[SampleKey]) -> tuple[Tensor, Tensor]:
        """Return images (b, 3, S, S) uint8 and labels (b,) int64 of samples, on the device."""
        return self.take(*self.draw(samples))

    def draw(self, samples: list[SampleKey]) -> tuple[Tensor, Draws]:
        """Return the positions of the samples' images, (n,) int64, and their augmentation."""
        keys = torch.tensor(samples, dtype=torch.int64)
        sources = keys[:, 1].clone()
        if self.bad:
            for row, (epoch, index, _) in enumerate(samples):
                if index in self.bad:
                    sources[row] = self.instead.readable(epoch, index)[1]
        return self._there(sources), self.augment.draw(self._there(keys))

    def take(self, sources: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return images (b, 3, S, S) uint8 and labels (b,) int64 of what was drawn."""
        return self.change(self.images[sources], draws), self.labels[sources]

    def _there(self, numbers: Tensor) -> Tensor:
        pinned = numbers.pin_memory() if self.device.type == "cuda" else numbers  # else the copy would be waited for
        return pinned.to(self.device, non_blocking=True)


class TrainingBatchesOnDevice:
    """Batches of training images as `TrainingBatches` gives them, but on the device.

    Args:
        images: on the device.
        order: of the samples; each iteration is the epoch it is at.
        bad: is told, once an epoch begins, of images that cannot be read: only then is there a run folder to list them.
        met: those images.
    """

    def __init__(self, images: TrainingImages, order: EpochSampler, bad: BadImages, met: BadImages):
        self.images, self.order, self.bad, self.met = images, order, bad, met

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.bad.add(self.met.known.items())
        batches, batch = iter(self.order), self.order.batch
        while block := list(islice(batches, max(1, BLOCK // batch))):
            sources, draws = self.images.draw([sample for samples in block for sample in samples])
            for start in range(0, len(sources), batch):
                rows = slice(start, start + batch)
                yield self.images.take(sources[rows], draws[rows])


def hold_on_device(
    data: ImageData,
    settings: Augmentation,
    order: EpochSampler,
    crop: EvaluationCrop,
    device: torch.device,
    bad: BadImages,
    filled: bool,
    compiled: bool,
) -> tuple[TrainingBatchesOnDevice, list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Bring a run's images to its device: training batches, and those of `evaluation_batches` (valid is on the CPU).

    Raises:
        RecipeError: they do not fit, or the crop needs images of one size.
        DataError: more images cannot be read than `bad` allows.
    """
    if device.type == "mps":
        raise RecipeError("on_device computes in float64, which mps does not have; leave --on-device out")
    size, share, met = crop.size, (order.rank, order.world), BadImages(bad.limit)
    mine = len(range(order.rank, len(data.val), order.world))
    check_memory(len(data.train), kept_size(data.train, settings.crop, size), mine, size, device)
    train = TrainingImages(data.train, settings, size, order.seed, device, met, compiled)
    val = [
        (images.to(device), labels.to(device), valid)
        for images, labels, valid in evaluation_batches(data.val, crop, order.batch, 0, False, share, met, filled)
    ]
    return TrainingBatchesOnDevice(train, order, bad, met), val
