"""Batches that the device finishes depend on the samples' keys alone, and are the crop and all the rest once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transmix.data.augment import TrainingAugmentation
from transmix.data.batch_augment import BatchAugmentation
from transmix.data.dataset import Split, UnreadableImageError
from transmix.data.device_batches import AugmentedBatches, CroppedSamples, DeviceAugmentation
from transmix.data.loader import TrainingBatches
from transmix.data.masks import drawn
from transmix.data.rand_augment import MOVE
from transmix.data.sampler import EpochSampler
from transmix.data.seeding import derive_seed
from transmix.data.settings import Augmentation
from transmix.error import RecipeError

SIZE, CPU = 12, torch.device("cpu")
WHOLE = Augmentation(rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, augment_on="device")
CROP = replace(WHOLE, flip=0.0, rand_augment=None, random_erasing=0.0)


class Broken:
    """Images of which one cannot be read."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == 4:
            raise UnreadableImageError("4.png", "cut off")
        return self.images[index]


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (23, 14, 20, 3), dtype=np.uint8), np.arange(23) % 5)


def ellipses(index):
    rows, columns = np.mgrid[:14, :20]
    return ((rows - 7) ** 2 / 30 + (columns - index % 20) ** 2 / 40 < 1).astype(np.uint8)


def epochs_of(split, workers=0, batch=4, settings=WHOLE, masks=None, seed=3):
    """Return the batches of one and a half epochs."""
    order = EpochSampler(len(split), seed=3, batch=batch, step_batch=8, repeats=2)
    loaded = TrainingBatches(CroppedSamples(split, settings, SIZE, seed, masks), order, workers, pin=False)
    loader, batches = AugmentedBatches(loaded, DeviceAugmentation(settings, SIZE, seed, CPU)), []
    for epoch, first_step in ((0, 0), (1, 1)):
        order.start_at(epoch, first_step)
        batches += list(loader)
    return batches


def joined(batches):
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def equal(batches, others):
    return all(one.equal(other) for one, other in zip(joined(batches), joined(others), strict=True))


@pytest.mark.parametrize("masks", [None, ellipses], ids=["plain", "masks"])
def test_batches_depend_on_no_worker_and_no_batch_size(split, masks):
    whole = epochs_of(split, masks=masks)
    assert len(whole) == 6
    assert [part.dtype for part in whole[0]] == [torch.uint8, torch.int64, torch.bool][: len(whole[0])]
    assert len(whole[0]) == 2 + (masks is not None)
    assert equal(whole, epochs_of(split, workers=2, masks=masks))
    assert equal(whole, epochs_of(split, batch=8, masks=masks))
    assert not equal(whole, epochs_of(split, seed=4, masks=masks))


def test_augmentation_by_place_in_the_batch_would_be_noticed(split, monkeypatch):
    draw = BatchAugmentation.draw
    by_place = lambda self, keys: draw(self, torch.arange(len(keys))[:, None].expand(-1, 3))  # noqa: E731
    monkeypatch.setattr(BatchAugmentation, "draw", by_place)
    assert not equal(epochs_of(split), epochs_of(split, batch=8))


def test_a_sample_is_the_loaders_crop_and_then_what_the_device_draws(split):
    keys = [(epoch, index, repeat) for epoch in range(2) for index in (2, 7) for repeat in range(2)]
    crop, samples = TrainingAugmentation(CROP, SIZE), CroppedSamples(split, WHOLE, SIZE, 3)
    cropped = [crop(split.images[key[1]], derive_seed(3, "augment", *key)) for key in keys]
    parts = [samples[key] for key in keys]
    assert all(image.equal(expected) for (image, *_), expected in zip(parts, cropped, strict=True))
    assert [int(label) for _, label, _ in parts] == [2, 2, 2, 2] * 2
    there = torch.tensor(keys)
    augment = BatchAugmentation(replace(WHOLE, crop="none"), (SIZE, SIZE), SIZE, 3, "cpu")
    found = DeviceAugmentation(WHOLE, SIZE, 3, CPU)(torch.stack(cropped), torch.zeros(8), there)[0]
    assert found.equal(augment.apply(torch.stack(cropped), augment.draw(there)))
    assert sum(not one.equal(other) for one, other in zip(found, cropped, strict=True)) > 4


def test_nothing_is_done_twice(split):
    shifted = replace(WHOLE, crop="pad", pad=3, flip=1.0, rand_augment=None, random_erasing=0.0)
    on_cpu = TrainingAugmentation(replace(shifted, flip=0.0), SIZE)
    [image, _, key] = CroppedSamples(split, shifted, SIZE, 3)[1, 6, 0]
    [found, _] = DeviceAugmentation(shifted, SIZE, 3, CPU)(image[None], torch.zeros(1), key[None])
    assert found[0].equal(on_cpu(split.images[6], derive_seed(3, "augment", 1, 6, 0)).flip(2))


def test_a_mask_moves_with_its_image():
    # Images that show their own masks; colours are left alone, so that the image still shows it.
    split = Split(np.stack([drawn(ellipses(index)) for index in range(20)]), np.zeros(20, dtype=np.int64))
    black = replace(WHOLE, mean=(0.0, 0.0, 0.0), rand_augment="rand-m9-n3-p1-mstd0.5-inc1", random_erasing=0.0)
    finish = DeviceAugmentation(black, SIZE, 3, CPU)
    policy = finish.augment.policy
    policy.operations.mul_(policy.operations == MOVE)
    samples = CroppedSamples(split, black, SIZE, 3, ellipses)
    parts = [samples[0, index, 0] for index in range(20)]
    images, _, found = finish(
        *(torch.stack([torch.as_tensor(one) for one in part]) for part in zip(*parts, strict=True))
    )
    assert found.equal(images[:, 0] >= 128)
    assert 0.05 < float(found.double().mean()) < 0.95
    cropped = torch.stack([image for image, *_ in parts])[:, 0] >= 128
    assert int((found != cropped).flatten(1).any(1).sum()) > 10


def test_an_unreadable_image_is_replaced_as_in_the_loader_and_keeps_its_key(split):
    samples = CroppedSamples(Split(Broken(split.images), split.labels), WHOLE, SIZE, 3)
    _, _, key, found = samples.load((0, 4, 1))
    assert key.tolist() == [0, 4, 1]
    assert found == (("4.png", "cut off"),)


@pytest.mark.parametrize("masks", [False, True])
def test_compiled_without_a_break_the_batches_are_the_same(masks, monkeypatch):
    calls, compiler = [], torch.compile

    def compile(function, fullgraph):
        calls.append(function)
        return compiler(function, fullgraph=fullgraph, backend="eager")

    monkeypatch.setattr(torch, "compile", compile)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, SIZE, SIZE), dtype=np.uint8))
    keys = torch.stack([torch.zeros(6), torch.arange(6), torch.zeros(6)], 1).long()
    rest = [torch.stack([torch.from_numpy(ellipses(n)[:12, 4:16] * 255)[None] for n in range(6)]), keys][1 - masks :]
    finish = DeviceAugmentation(WHOLE, SIZE, 3, CPU)
    plain = finish(images, keys[:, 1], *rest)
    torch._dynamo.reset()
    finish.compile()
    assert all(one.equal(other) for one, other in zip(finish(images, keys[:, 1], *rest), plain, strict=True))
    assert len(calls) == 1


def test_a_device_without_float64_is_refused(says):
    with says(RecipeError, "augment_on device computes in float64, which mps does not have; give --augment-on cpu"):
        DeviceAugmentation(WHOLE, SIZE, 3, torch.device("mps"))


def test_the_global_generator_is_not_touched(split):
    before = torch.get_rng_state()
    epochs_of(split)
    assert torch.get_rng_state().equal(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("masks", [None, ellipses], ids=["plain", "masks"])
def test_a_gpu_gives_the_same_bits(split, masks):
    samples = CroppedSamples(split, WHOLE, SIZE, 3, masks)
    parts = [samples[0, index, 0] for index in range(20)]
    batch = [torch.stack([torch.as_tensor(one) for one in part]) for part in zip(*parts, strict=True)]
    here = DeviceAugmentation(WHOLE, SIZE, 3, CPU)(*batch)
    there = DeviceAugmentation(WHOLE, SIZE, 3, torch.device("cuda"))
    assert all(one.equal(other.cpu()) for one, other in zip(here, there(*batch), strict=True))
    there.compile()
    assert all(one.equal(other.cpu()) for one, other in zip(here, there(*batch), strict=True))
