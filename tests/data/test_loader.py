"""Batches do not depend on who loads them, and evaluation sees every image once."""

import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.dataset import Split
from transmix.data.loader import TrainingBatches, TrainingSamples, choose_threads, choose_workers, evaluation_batches
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation

SIZE = 12


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (23, 14, 20, 3), dtype=np.uint8), np.arange(23) % 5)


def keyed():
    return TrainingAugmentation(Augmentation(random_erasing=0.5), SIZE)


def unkeyed(image, key):
    return torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)


def two_epochs(split, augment, workers):
    order = EpochSampler(len(split), seed=3, batch=4, step_batch=8, repeats=2)
    loader = TrainingBatches(TrainingSamples(split, augment, seed=3), order, workers, pin=False)
    epochs = []
    for epoch, first_step in ((0, 0), (1, 1)):
        order.start_at(epoch, first_step)
        batches = list(loader)
        assert len(batches) == 2 * (2 - first_step)
        epochs.extend(batches)
    return epochs


def equal(batches, others):
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(a, b) for batch, other in pairs for a, b in zip(batch, other, strict=True))


def test_batches_are_bit_equal_with_and_without_workers(split):
    assert equal(two_epochs(split, keyed(), workers=0), two_epochs(split, keyed(), workers=2))


def test_an_augmentation_that_ignores_its_key_would_be_noticed(split):
    assert not equal(two_epochs(split, unkeyed, workers=0), two_epochs(split, unkeyed, workers=0))


def test_images_are_uint8_with_their_own_labels(split):
    order = EpochSampler(len(split), seed=3, batch=4, step_batch=8)
    augment = TrainingAugmentation(
        Augmentation(crop="none", flip=0.0, rand_augment=None, random_erasing=0.0), size=SIZE
    )
    batches = list(TrainingBatches(TrainingSamples(split, augment, seed=3), order, 0, pin=False))
    for (images, labels), samples in zip(batches, order, strict=True):
        assert images.shape == (4, 3, SIZE, SIZE)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert labels.tolist() == [int(split.labels[index]) for _, index, _ in samples]
        expected = [augment(split.images[index], 0) for _, index, _ in samples]
        assert torch.equal(images, torch.stack(expected))


def test_seed_epoch_and_repeat_each_change_the_augmentation(split):
    first = TrainingSamples(split, keyed(), seed=3)
    other_seed = TrainingSamples(split, keyed(), seed=4)
    image = first[0, 7, 0][0]
    assert torch.equal(image, first[0, 7, 0][0])
    others = [first[1, 7, 0], first[0, 7, 1], other_seed[0, 7, 0]]
    assert not any(torch.equal(image, other) for other, _ in others)
    assert {label for _, label in others} == {int(split.labels[7])}


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_does_not_touch_the_global_torch_generator(split, workers):
    before = torch.get_rng_state()
    two_epochs(split, keyed(), workers)
    assert len(list(evaluation_batches(split, EvaluationCrop(SIZE, 0.9), 8, workers, pin=False))) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_loader_would_touch_the_global_torch_generator(split):
    before = torch.get_rng_state()
    list(DataLoader(split.labels, batch_size=8))
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("count", "world"), [(23, 1), (23, 3), (12, 4), (2, 3)])
def test_evaluation_covers_every_image_once_over_all_processes(count, world):
    images = np.zeros((count, 10, 13, 3), dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    split = Split(images, 100 + np.arange(count))
    seen, sizes = [], []
    for rank in range(world):
        batches = list(evaluation_batches(split, EvaluationCrop(8, 1.0), 2, 0, pin=False, share=(rank, world)))
        for pixels, labels, extra in batches:
            assert extra is None
            assert pixels.shape == (len(labels), 3, 8, 8)
            assert torch.equal(pixels[:, 0, 0, 0] + 100, labels)  # each image came with its own label
            assert 1 <= len(labels) <= 2
        mine = [label for _, labels, _ in batches for label in labels.tolist()]
        sizes.append(len(mine))
        seen.extend(mine)
    assert sorted(seen) == list(range(100, 100 + count))
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def give(number):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)), raising=False)

    return give


@pytest.mark.parametrize(
    ("asked", "small", "number", "processes", "expected"),
    [
        (None, True, 32, 1, 0),
        (None, False, 8, 1, 7),
        (None, False, 8, 2, 3),
        (None, False, 1, 1, 1),
        (None, False, 2, 4, 1),
        (None, False, 64, 1, 16),
        (0, False, 8, 1, 0),
        (5, True, 2, 1, 5),
    ],
)
def test_workers_are_what_was_asked_else_what_cores_and_data_allow(cores, asked, small, number, processes, expected):
    cores(number)
    assert choose_workers(asked, small, processes) == expected


@pytest.mark.parametrize(
    ("asked", "workers", "number", "processes", "told", "expected"),
    [
        (None, 0, 8, 1, None, 8),
        (None, 3, 8, 1, None, 5),
        (None, 3, 8, 2, None, 1),
        (None, 16, 8, 1, None, 1),
        (None, 0, 8, 1, "3", 3),
        (None, 0, 8, 1, "", 8),
        (None, 0, 8, 1, "0", 8),
        (None, 0, 8, 1, "4,2", 8),
        (2, 0, 8, 1, None, 2),
        (2, 0, 8, 1, "3", 2),
    ],
)
def test_threads_are_what_was_asked_else_the_environments_else_the_cores_left(
    cores, monkeypatch, asked, workers, number, processes, told, expected
):
    cores(number)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert choose_threads(asked, workers, processes) == expected


def test_where_the_system_has_no_affinity_all_cores_count(cores, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert choose_threads(None, 0, 1) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert choose_threads(None, 0, 1) == 1
