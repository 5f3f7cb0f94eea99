"""The order of training samples: a pure function of (seed, epoch), cut into batches and split over processes."""

from collections.abc import Iterator
from copy import copy
from itertools import count

import numpy as np

from transmix.data.balance import balanced_indices
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
        labels: (N,) int64; draw each class equally often in an epoch of the same length (counts differ by one at most).
            Images of small classes then come several times, each time with a repeat of its own; of large classes some
            are left out, others in every epoch. None: each image once.

    Raises:
        ValueError: fewer samples than one step needs.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        batch: int,
        step_batch: int,
        repeats: int = 1,
        rank: int = 0,
        world: int = 1,
        labels: np.ndarray | None = None,
    ):
        self.samples, self.seed, self.batch, self.step_batch = samples, seed, batch, step_batch
        self.repeats, self.rank, self.world = repeats, rank, world
        self.steps_per_epoch = samples // step_batch
        if self.steps_per_epoch == 0:
            remedy = f"--batch-size {samples} or less"
            raise ValueError(f"{samples} training images do not fill one batch of {step_batch}: {remedy}")
        self.members = None if labels is None else [np.flatnonzero(labels == one) for one in np.unique(labels)]
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
        first, last = self.first_step * self.step_batch, self.steps_per_epoch * self.step_batch
        if self.members is None:
            indices = generator.permutation(self.samples)
            taken = indices[: -(-self.samples // self.repeats)].tolist()
            keys = [(index, repeat) for index in taken for repeat in range(self.repeats)]
        else:
            taken = balanced_indices(self.members, -(-last // self.repeats), generator).tolist()
            # The second time an image comes it is another sample, or it would be augmented as the first time.
            repeats = {index: count() for index in taken}
            keys = [(index, next(repeats[index])) for index in taken for _ in range(self.repeats)]
        mine = keys[first:last][self.rank :: self.world]
        for start in range(0, len(mine), self.batch):
            yield [(self.epoch, index, repeat) for index, repeat in mine[start : start + self.batch]]
