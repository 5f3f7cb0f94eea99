"""Loaders: batches of uint8 images, made by torch's DataLoader; random numbers are keyed by sample."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from transmix.data.augment import TrainingAugmentation
from transmix.data.bad_images import BadImages, Found
from transmix.data.dataset import DataError, Split, UnreadableImageError, too_many
from transmix.data.sampler import EpochSampler, SampleKey
from transmix.data.seeding import derive_seed

Sample = tuple[Any, ...]
"""An image (3, S, S) uint8, its label, its foreground (S, S) bool where masks are asked for; last, what could not be
read on the way to it (Found)."""

TRIES = 100
"""So many images in a row that cannot be read are an error, whatever the limit."""


class _Samples(Dataset):
    """A split whose samples are loaded by key."""

    load: Callable[[Any], Sample]

    def __getitem__(self, key: Any) -> tuple[Any, ...]:
        return self.load(key)[:-1]

    def __getitems__(self, keys: Sequence) -> list[Sample] | str:
        """Load a whole batch; torch calls this with all keys of a batch.

        A data error is returned as a message, because torch would raise it with a traceback.
        """
        try:
            return [self.load(key) for key in keys]
        except DataError as error:
            return str(error)


class TrainingSamples(_Samples):
    """A split with training augmentation; indexed by sample keys instead of integers.

    An unreadable image is replaced by another image with its label, chosen from (seed, epoch, index). So all processes
    and any number of workers agree, and the batch size stays.

    Args:
        split: N images.
        augment: (H, W, 3) uint8 array and key -> (3, S, S) uint8 tensor. `TrainingAugmentation` is asked first which
            part of an image it needs.
        seed: run seed.
        foreground: index of an image and key -> its mask (S, S) bool, augmented like the image; None: without masks.
    """

    def __init__(self, split: Split, augment: Callable, seed: int, foreground: Callable | None = None):
        self.split, self.augment, self.seed, self.foreground = split, augment, seed, foreground

    def load(self, sample: SampleKey) -> Sample:
        """Return an image, its label, its foreground if there are masks, and the unreadable images it replaces."""
        epoch, index, repeat = sample
        key = derive_seed(self.seed, "augment", epoch, index, repeat)
        image, source, found = self.readable(epoch, index, partial(self._augmented, key))
        mask = () if self.foreground is None else (self.foreground(source, key),)
        return image, int(self.split.labels[source]), *mask, found

    def _augmented(self, key: int, source: int) -> Tensor:
        if isinstance(self.augment, TrainingAugmentation) and self.augment.first is None:
            return self.augment.read(partial(self.split.part, source), key)
        return self.augment(self.split.image(source), key)

    def readable(self, epoch: int, index: int, read: Callable[[int], Any] | None = None) -> tuple[Any, int, Found]:
        """Return a readable image, its index, and the unreadable images tried before it.

        Args:
            epoch: counted from 0.
            index: the image to try first.
            read: index -> image; None: as it is stored.
        """
        load = read or self.split.image
        source, found = index, []
        for attempt in range(TRIES):
            try:
                return load(source), source, tuple(found)
            except UnreadableImageError as error:
                found.append((error.where, error.reason))
                source = derive_seed(self.seed, "instead", epoch, index, attempt) % len(self.split)
        raise too_many(TRIES, [where for where, _ in found])


class EvaluationSamples(_Samples):
    """A split with the evaluation crop; indexed by integers. An unreadable image is black."""

    def __init__(self, split: Split, crop: Callable):
        self.split, self.crop = split, crop

    def load(self, index: int) -> Sample:
        """Return an image, its label, and whether it is unreadable."""
        label = int(self.split.labels[index])
        try:
            return self.crop(self.split.image(index)), label, ()
        except UnreadableImageError as error:
            return self.black(), label, ((error.where, error.reason),)

    def black(self) -> Tensor:
        """Return a black image, (3, S, S)."""
        return self.crop(np.zeros((8, 8, 3), dtype=np.uint8))

    def readable(self, index: int) -> tuple[Tensor, int] | None:
        """Return an image and its label; None if it cannot be read."""
        image, label, found = self.load(index)
        return None if found else (image, label)


class FileSamples(_Samples):
    """Image files with the evaluation crop; indexed by path. An unreadable one is black.

    Args:
        read: path of a file -> (3, H, W) uint8.
        size: (H, W) in pixels.
    """

    def __init__(self, read: Callable[[Path], Tensor], size: tuple[int, int]):
        self.read, self.size = read, size

    def load(self, path: str) -> Sample:
        """Return an image, label 0, and whether it is unreadable."""
        try:
            return self.read(Path(path)), 0, ()
        except DataError as error:  # also what may pass, as of memory: the reason says so
            reason = getattr(error, "reason", str(error).removeprefix(f"{path}: "))
            return torch.zeros(3, *self.size, dtype=torch.uint8), 0, ((path, reason),)


class TrainingBatches:
    """Batches (images (b, 3, S, S) uint8, labels (b,) int64); each iteration is one epoch, set by `order`.

    Samples with masks add a third part, the foreground (b, S, S) bool.

    Iterating raises a DataError if more images are bad than `bad` allows.

    Args:
        samples: source of the samples.
        order: sampler of the keys of each batch.
        workers: number of loader workers; 0: load in this process.
        pin: pin memory, for batches that go to a GPU.
        bad: collects bad images and limits them; None: no limit.
    """

    def __init__(
        self, samples: TrainingSamples, order: EpochSampler, workers: int, pin: bool, bad: BadImages | None = None
    ):
        self.loader = _loader(samples, order, workers, pin, persistent_workers=workers > 0)
        self.bad = bad or BadImages()

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # now and not at the first batch: who iterates may set generators in between
        batches = in_shared_memory(iter(self.loader))
        return (_checked(batch, self.bad)[:-1] for batch in batches)


def _loader(samples: _Samples, batches: Iterable, workers: int, pin: bool, **more: Any) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=ignore_signals,
        collate_fn=_collate,
        generator=torch.Generator(),  # else every iteration would draw from the global one
        **more,
    )


def evaluation_batches(
    split: Split,
    crop: Callable,
    batch: int,
    workers: int,
    pin: bool,
    share: tuple[int, int] = (0, 1),
    bad: BadImages | None = None,
    even: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield this process's share of a split as (images, labels, valid), each image once over all processes.

    `share` is (rank, number of processes). valid (b,) bool, on the CPU, is False for black images that do not count:
    unreadable ones and, with `even`, padding that gives every process the same number of batches. None if all count.

    Raises:
        DataError: if more images are bad than `bad` allows (None: any).
    """
    rank, world = share
    mine = range(rank, len(split), world)
    batches = [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
    samples = EvaluationSamples(split, crop)
    bad = bad or BadImages()
    for loaded in in_shared_memory(iter(_loader(samples, batches, workers, pin))):
        images, labels, found = _checked(loaded, bad)
        yield images, labels, torch.tensor([not any_bad for any_bad in found]) if any(found) else None
    if even:
        most = len(range(0, len(range(0, len(split), world)), batch))  # the first process has most
        for _ in range(most - len(batches)):
            yield samples.black()[None], torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)


def file_batches(
    paths: Iterable[str], samples: FileSamples, batch: int, workers: int, pin: bool
) -> Iterator[tuple[list[str], Tensor, list[Found]]]:
    """Yield image files in order as (paths, images (b, 3, H, W) uint8, what cannot be read of each).

    Paths are taken as they are needed, so that a list of any length costs no memory.
    """
    rest, waiting = iter(paths), deque()

    def keys() -> Iterator[list[str]]:
        while some := list(islice(rest, batch)):
            waiting.append(some)
            yield some

    for images, _, found in in_shared_memory(iter(_loader(samples, keys(), workers, pin))):
        yield waiting.popleft(), images, found


def _collate(loaded: list[Sample] | str) -> tuple[Any, ...] | str:
    if isinstance(loaded, str):
        return loaded
    return *default_collate([sample[:-1] for sample in loaded]), [sample[-1] for sample in loaded]


OUT_OF_SHARED_MEMORY = ("shared memory", "Bus error", "No space left on device", "unable to mmap")
"""What torch says, one of these, when a worker has no room in /dev/shm for a batch."""


def in_shared_memory(batches: Iterator) -> Iterator:
    """Yield a loader's batches; if shared memory runs out, raise a one-line error, not torch's 70 lines."""
    try:
        yield from batches
    except (RuntimeError, OSError) as error:
        if not any(sign in str(error) for sign in OUT_OF_SHARED_MEMORY):
            raise
        remedy = "load with fewer, or with none (--workers 0), or give the container more (docker run --shm-size=8g)"
        raise DataError(f"the processes that load images ran out of shared memory (/dev/shm): {remedy}") from error


def _checked(batch: tuple[Any, ...] | str, bad: BadImages) -> tuple[Any, ...]:
    if isinstance(batch, str):
        raise DataError(batch)
    bad.add(one for found in batch[-1] for one in found)
    return batch


def choose_workers(asked: int | None, small_in_memory: bool, processes: int) -> int:
    """Return how many loader workers each of the machine's training processes gets.

    On few cores, workers compete with torch's own threads, which spin while waiting. Small decoded images are augmented
    faster in the training process itself.
    """
    if asked is not None:
        return asked
    return 0 if small_in_memory else min(16, max(1, cores() // processes - 1))


def choose_threads(asked: int | None, workers: int, processes: int) -> int:
    """Return the number of torch's CPU threads per training process: the cores not used by its workers.

    If `asked` is None, OMP_NUM_THREADS is used if it is set (torchrun sets it).
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return asked or (int(told) if told.isdecimal() and int(told) else max(1, cores() // processes - workers))


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ignore_signals(_: int) -> None:
    """Make a loader worker ignore SIGINT, SIGTERM and SIGUSR1; a DataLoader's worker_init_fn.

    A scheduler, or Ctrl-C, signals every process of a job. The training process then saves and stops, and needs its
    workers for that. Workers end when the training process tells them, or soon after it is gone.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows, where a worker that hangs has to be killed
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_the_word_of, args=(os.getppid(),), daemon=True).start()


def _end_at_the_word_of(parent: int) -> None:
    """End on SIGTERM only if the training process itself sent it: torch uses it to stop hanging workers."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
