"""Loaders: batches of uint8 images, made by torch's DataLoader from keyed samples."""

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transmix.data.dataset import Split
from transmix.data.keyed import key
from transmix.data.order import EpochOrder, SampleKey


class TrainingSamples(Dataset):
    """A split seen through the training augmentation; indexed by sample keys rather than by numbers.

    Args:
        split: N images.
        augment: (H, W, 3) uint8 array and key -> (3, S, S) uint8 tensor.
        seed: of the run.
    """

    def __init__(self, split: Split, augment: Callable, seed: int):
        self.split, self.augment, self.seed = split, augment, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, sample: SampleKey) -> tuple[Tensor, int]:
        epoch, index, repeat = sample
        image = self.augment(self.split.images[index], key(self.seed, "augment", epoch, index, repeat))
        return image, int(self.split.labels[index])


class EvaluationSamples(Dataset):
    """A split seen through the evaluation crop; indexed by numbers."""

    def __init__(self, split: Split, crop: Callable):
        self.split, self.crop = split, crop

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.crop(self.split.images[index]), int(self.split.labels[index])


def training_loader(samples: TrainingSamples, order: EpochOrder, workers: int, pin: bool) -> DataLoader:
    """Return a loader of (images (b, 3, S, S) uint8, labels (b,) int64); each iteration is the epoch `order` is at."""
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # else every iteration would draw from the global one
    )


def evaluation_batches(
    split: Split, crop: Callable, batch: int, workers: int, pin: bool, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor, None]]:
    """Yield this process's share of a split as (images, labels, None), every image once over all processes."""
    mine = range(rank, len(split), world)
    batches = [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
    samples = EvaluationSamples(split, crop)
    loader = DataLoader(
        samples, batch_sampler=batches, num_workers=workers, pin_memory=pin, generator=torch.Generator()
    )
    for images, labels in loader:
        yield images, labels, None


def choose_workers(asked: int | None, small_in_memory: bool, processes: int) -> int:
    """Return how many loader workers each of the machine's training processes gets.

    On few cores a worker would fight with torch's own threads, which spin while they wait; small decoded images are
    augmented faster in the training process itself.
    """
    if asked is not None:
        return asked
    return 0 if small_in_memory else min(16, max(1, _cores() // processes - 1))


def choose_threads(asked: int | None, workers: int, processes: int) -> int:
    """Return torch's CPU threads for each training process: the cores that its workers leave.

    OMP_NUM_THREADS, if set (torchrun sets it), is obeyed.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return asked or (int(told) if told.isdecimal() and int(told) else max(1, _cores() // processes - workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
