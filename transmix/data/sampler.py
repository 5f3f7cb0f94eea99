"""The order of training samples: a pure function of (seed, epoch), cut into batches and split over processes."""

from collections.abc import Iterator
from copy import copy

import numpy as np

from transmix.data.seeding import derive_seed

SampleKey = tuple[int, int, int]
"""(epoch, index, repeat): which sample, and which of its augmentations."""


class EpochSampler:
    """Batch sampler for torch's DataLoader: yields the sample keys of one process, epoch after epoch.

    Each epoch is a new permutation. With repeats r (repeated augmentation: Hoffer et al. 2020, DeiT), an epoch takes
    the first samples / r of the permutation, each r times in a row; samples are assigned to processes in turn, so
    repeats land in different processes. An incomplete last step is dropped.

    Args:
        samples: N, number of training images.
        seed: run seed.
        batch: images per micro-batch and process.
        step_batch: images per optimizer step over all processes and micro-batches.
        repeats: r.
        rank: rank of this process.
        world: number of processes.

    Raises:
        ValueError: fewer samples than one step needs.
    """

    def __init__(
        self, samples: int, seed: int, batch: int, step_batch: int, repeats: int = 1, rank: int = 0, world: int = 1
    ):
        self.samples, self.seed, self.batch, self.step_batch = samples, seed, batch, step_batch
        self.repeats, self.rank, self.world = repeats, rank, world
        self.steps_per_epoch = samples // step_batch
        if self.steps_per_epoch == 0:
            remedy = f"--batch-size {samples} or less"
            raise ValueError(f"{samples} training images do not fill one batch of {step_batch}: {remedy}")
        self.epoch = 0
        self.first_step = 0

    def start_at(self, epoch: int, first_step: int = 0) -> None:
        """Set the epoch of the next iteration, and the number of steps to skip."""
        self.epoch, self.first_step = epoch, first_step

    def batches_of(self, step: int, rank: int) -> Iterator[list[SampleKey]]:
        """Yield the batches of a process from an optimizer step on, counted from 1 over all epochs."""
        one = copy(self)
        one.rank = rank
        one.start_at(*divmod(step - 1, self.steps_per_epoch))
        return iter(one)

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.first_step) * self.step_batch // (self.batch * self.world)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        generator = np.random.Generator(np.random.Philox(derive_seed(self.seed, "order", self.epoch)))
        indices = generator.permutation(self.samples)
        taken = indices[: -(-self.samples // self.repeats)].tolist()
        keys = [(index, repeat) for index in taken for repeat in range(self.repeats)]
        first, last = self.first_step * self.step_batch, self.steps_per_epoch * self.step_batch
        mine = keys[first:last][self.rank :: self.world]
        for start in range(0, len(mine), self.batch):
            yield [(self.epoch, index, repeat) for index, repeat in mine[start : start + self.batch]]
