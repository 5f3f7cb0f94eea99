"""A data set stored decoded on the device; batches are made and augmented there too.

For small images, loading one by one is slower than a small model. As in the loader, a sample depends only on its key;
the random numbers differ from the loader's, with the same distribution.
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
from transmix.data.masks import Masks, drawn, is_white
from transmix.data.sampler import EpochSampler, SampleKey
from transmix.data.settings import Augmentation
from transmix.error import RecipeError

BLOCK = 8192
"""Number of samples per draw: a few large draws are faster on the device than many small ones."""

PIECE = 1024
"""Images that go to the device at once."""


def kept_size(split: Split, crop: str, size: int) -> tuple[int, int]:
    """Return the height and width of the stored training images.

    Raises:
        RecipeError: crop 'random-resized' needs the original images, and their sizes differ.
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


def check_memory(
    train: int, source: tuple[int, int], val: int, size: int, device: torch.device | str, masks: bool = False
) -> None:
    """Check that the images fit into the device memory.

    Args:
        train: number of training images.
        source: stored height and width of training images.
        val: number of validation images.
        size: stored side of validation images.
        device: target device.
        masks: whether each training image has a mask.

    Raises:
        RecipeError: they do not fit.
    """
    free = free_memory(torch.device(device))
    needed = (3 + masks) * train * source[0] * source[1] + 3 * val * size * size
    if free is not None and needed > free:
        raise RecipeError(
            f"on_device needs {needed / 1e6:,.1f} MB for {train} training images{' with masks' if masks else ''} of "
            f"{source[0]} x {source[1]} and {val} validation images of {size} x {size} pixels, but {device} "
            f"has {free / 1e6:,.1f} MB free; take a smaller --image-size, or leave --on-device out"
        )


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes; None if unknown."""
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
    """Decode images to the device, (n, 3, H, W) uint8; unreadable ones are black and are recorded in `met`.

    Args:
        split: the images.
        change: (h, w, 3) uint8 array -> (3, H, W) uint8 tensor.
        size: H and W.
        device: target device.
        met: collects unreadable images and limits them.

    Raises:
        DataError: more images are unreadable than `met` allows.
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

    With crops 'pad' and 'none' every image is resized to S x S once; 'random-resized' needs the original size.

    Args:
        split: N images.
        settings: the augmentation.
        size: S.
        seed: run seed.
        device: target device.
        met: Collects unreadable images and limits them; None: none allowed. Each is replaced by another image, the same
            as in the loader.
        masks: Masks of the images; their foreground is kept on the device too, and joins each batch.

    Raises:
        RecipeError: crop 'random-resized' of images whose sizes differ.
        DataError: more images are unreadable than `met` allows, or a mask is.
    """

    def __init__(
        self,
        split: Split,
        settings: Augmentation,
        size: int,
        seed: int,
        device: torch.device | str,
        met: BadImages | None = None,
        masks: Masks | None = None,
    ):
        source = kept_size(split, settings.crop, size)
        change = to_tensor if settings.crop == "random-resized" else lambda image: to_tensor(fit(image, size))
        self.images, self.bad = keep(split, change, source, device, met or BadImages())
        self.foreground = None
        if masks is not None:
            empty = torch.zeros(1, *source, dtype=torch.uint8)  # never used: another image replaces an unreadable one
            images = range(len(split))
            white = [empty if index in self.bad else change(drawn(masks(index)))[:1] for index in images]
            self.foreground = torch.stack(white).to(device)
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64)).to(device)
        self.augment = BatchAugmentation(settings, source, size, seed, device)
        self.change = self.augment.apply
        self.instead = TrainingSamples(replace(split, bad=self.bad), to_tensor, seed)
        self.device = torch.device(device)

    def compile(self) -> None:
        """Compile the augmentation; results are bit-identical. On a CPU it is slower."""
        self.change = torch.compile(self.augment.apply, fullgraph=True)

    def batch(self, samples: list[SampleKey]) -> tuple[Tensor, ...]:
        """Return images (b, 3, S, S) uint8, labels (b,) int64 and foreground (b, S, S) bool if there are masks."""
        return self.take(*self.draw(samples))

    def draw(self, samples: list[SampleKey]) -> tuple[Tensor, Draws]:
        """Return the indices of the samples' images, (n,) int64, and the drawn augmentation."""
        keys = torch.tensor(samples, dtype=torch.int64)
        sources = keys[:, 1].clone()
        if self.bad:
            for row, (epoch, index, _) in enumerate(samples):
                if index in self.bad:
                    sources[row] = self.instead.readable(epoch, index)[1]
        return self._there(sources), self.augment.draw(self._there(keys))

    def take(self, sources: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return the drawn images (b, 3, S, S) uint8, labels (b,) int64 and foreground (b, S, S) if there are masks."""
        batch = self.change(self.images[sources], draws), self.labels[sources]
        if self.foreground is None:
            return batch
        return *batch, is_white(self.augment.apply_to_masks(self.foreground[sources], draws))

    def _there(self, numbers: Tensor) -> Tensor:
        pinned = numbers.pin_memory() if self.device.type == "cuda" else numbers  # else the copy would be waited for
        return pinned.to(self.device, non_blocking=True)


class TrainingBatchesOnDevice:
    """Training batches like `TrainingBatches`, but on the device.

    Args:
        images: training images on the device.
        order: sampler; each iteration is one epoch, set by it.
        bad: gets the unreadable images when an epoch begins, because the run folder for the list does not exist
            earlier.
        met: the unreadable images.
    """

    def __init__(self, images: TrainingImages, order: EpochSampler, bad: BadImages, met: BadImages):
        self.images, self.order, self.bad, self.met = images, order, bad, met

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
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
    masks: Masks | None = None,
) -> tuple[TrainingBatchesOnDevice, list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Move a run's images to its device; return training batches and `evaluation_batches` (valid is on the CPU).

    Raises:
        RecipeError: they do not fit, or the crop needs images of equal size.
        DataError: more images are unreadable than `bad` allows.
    """
    if device.type == "mps":
        raise RecipeError("on_device computes in float64, which mps does not have; leave --on-device out")
    size, share, met = crop.size, (order.rank, order.world), BadImages(bad.limit)
    mine = len(range(order.rank, len(data.val), order.world))
    source = kept_size(data.train, settings.crop, size)
    check_memory(len(data.train), source, mine, size, device, masks is not None)
    train = TrainingImages(data.train, settings, size, order.seed, device, met, masks)
    val = [
        (images.to(device), labels.to(device), valid)
        for images, labels, valid in evaluation_batches(data.val, crop, order.batch, 0, False, share, met, filled)
    ]
    return TrainingBatchesOnDevice(train, order, bad, met), val
