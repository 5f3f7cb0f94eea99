"""Batches on the device are those of the data order, whoever takes them; images that fit are kept, others refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transmix.data import on_device
from transmix.data.augment import EvaluationCrop, fit, to_tensor
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.loader import TrainingSamples, evaluation_batches
from transmix.data.on_device import (
    TrainingBatchesOnDevice,
    TrainingImages,
    check_memory,
    free_memory,
    hold_on_device,
    keep,
    kept_size,
)
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation
from transmix.distributed import World
from transmix.error import RecipeError
from transmix.training import batches

SIZE = 12
PAD = Augmentation(crop="pad", pad=2, rand_augment=None, random_erasing=0.5)
RESIZED = Augmentation(crop="random-resized", rand_augment=None, color_jitter=0.3)


class Encoded:
    """Images that are decoded when they are asked for; some cannot be."""

    def __init__(self, images, broken=()):
        self.images, self.broken = images, broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.size(index)
        return self.images[index]

    def size(self, index):
        if index in self.broken:
            raise UnreadableImageError(f"{index}.png", "cut off")
        return self.images[index].shape[:2]


def pictures(count, height=14, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def split_of(images):
    return Split(images, np.arange(len(images)) % 5)


@pytest.fixture(scope="module")
def split():
    return split_of(pictures(40))


def batches_of(
    split, settings=PAD, batch=4, step_batch=8, rank=0, world=1, epoch=1, first_step=0, repeats=2, bad=0, **more
):
    order = EpochSampler(len(split), 3, batch, step_batch, repeats, rank, world)
    order.start_at(epoch, first_step)
    met = BadImages(bad)
    images = TrainingImages(split, settings, SIZE, 3, "cpu", met, **more)
    return TrainingBatchesOnDevice(images, order, BadImages(9), met), order


def by_sample(split, **how):
    """Every sample of an epoch, key -> (pixels, label)."""
    loader, order = batches_of(split, **how)
    pairs = zip(order, loader, strict=True)
    return {
        key: (image.numpy().tobytes(), int(label))
        for keys, (images, labels) in pairs
        for key, image, label in zip(keys, images, labels, strict=True)
    }


# Order, batches, processes.


def test_batches_are_those_of_the_order_as_contiguous_bytes(split):
    loader, order = batches_of(split)
    assert len(list(loader)) == 10
    for keys, (images, labels) in zip(order, loader, strict=True):
        assert images.shape == (4, 3, SIZE, SIZE)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert labels.dtype == torch.int64
        assert labels.tolist() == [int(split.labels[index]) for _, index, _ in keys]
        assert images.equal(loader.images.batch(keys)[0])


def test_a_sample_without_augmentation_is_the_fitted_image(split):
    plain = Augmentation(crop="none", flip=0.0, rand_augment=None, random_erasing=0.0)
    images, _ = TrainingImages(split, plain, SIZE, 3, "cpu").batch([(0, 7, 0), (5, 2, 1)])
    for image, index in zip(images, (7, 2), strict=True):
        assert np.array_equal(image.permute(1, 2, 0), fit(split.images[index], SIZE))


@pytest.mark.parametrize("settings", [PAD, RESIZED], ids=["pad", "random-resized"])
def test_a_samples_pixels_depend_on_no_batch_size_no_block_and_no_number_of_processes(split, settings, monkeypatch):
    whole = by_sample(split, settings=settings)
    assert len(whole) == 40
    assert by_sample(split, settings=settings, batch=8) == whole
    shares = [by_sample(split, settings=settings, rank=rank, world=2) for rank in range(2)]
    assert shares[0].keys() | shares[1].keys() == whole.keys()
    assert shares[0] | shares[1] == whole
    assert len(shares[0]) == len(shares[1]) == 20
    monkeypatch.setattr(on_device, "BLOCK", 4)
    assert by_sample(split, settings=settings) == whole


def test_pixels_that_follow_the_place_in_the_batch_would_be_noticed(split, monkeypatch):
    draw = TrainingImages.draw

    def by_place(self, samples):
        sources, _ = draw(self, samples)
        return sources, self.augment.draw(torch.tensor([(0, place, 0) for place in range(len(samples))]))

    monkeypatch.setattr(TrainingImages, "draw", by_place)
    whole = by_sample(split)
    assert not by_sample(split, rank=0, world=2).items() <= whole.items()
    monkeypatch.setattr(on_device, "BLOCK", 4)
    assert by_sample(split) != whole


def test_an_epoch_begun_in_its_middle_goes_on_with_the_same_bits(split):
    whole, rest = (list(batches_of(split, first_step=step)[0]) for step in (0, 3))
    assert len(rest) == 4
    pairs = zip(whole[6:], rest, strict=True)
    assert all(one.equal(other) for batch, again in pairs for one, other in zip(batch, again, strict=True))
    assert not whole[0][0].equal(rest[0][0])


@pytest.mark.parametrize("settings", [PAD, RESIZED])
def test_compiled_the_pixels_are_the_same(split, settings, monkeypatch):
    calls = []
    compiler = torch.compile

    def compile(function, fullgraph):
        calls.append(function)
        return compiler(function, fullgraph=fullgraph, backend="eager")

    monkeypatch.setattr(torch, "compile", compile)
    plain, _ = batches_of(split, settings)
    assert not calls
    compiled, _ = batches_of(split, settings)
    compiled.images.compile()
    assert len(calls) == 1
    for (images, labels), (same, same_labels) in zip(plain, compiled, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)


def test_a_gpu_gets_it_compiled_where_the_model_is(split, monkeypatch, small_recipe, tmp_path):
    asked = []
    monkeypatch.setattr(TrainingImages, "compile", lambda images: asked.append(images))
    held = hold_on_device
    monkeypatch.setattr(batches, "hold_on_device", lambda *about: held(*about[:4], torch.device("cpu"), *about[5:]))
    data = ImageData("noise", tuple("abcde"), split, split_of(pictures(10)))
    for device in ("cpu", "cuda"):
        for compile in (False, True):
            recipe = small_recipe(tmp_path, on_device=True, compile=compile)
            batches.prepare_batches(recipe, data, BadImages(), World(0, 1, 1, torch.device(device)))
            asked.append((device, compile))
    assert asked[:3] == [("cpu", False), ("cpu", True), ("cuda", False)]
    assert isinstance(asked[3], TrainingImages)
    assert asked[4:] == [("cuda", True)]


def test_every_epoch_seed_and_repeat_looks_different(split):
    images, _ = TrainingImages(split, PAD, SIZE, 3, "cpu").batch([(e, 7, r) for e in range(4) for r in range(4)])
    assert len({image.numpy().tobytes() for image in images}) >= 15
    other, _ = TrainingImages(split, PAD, SIZE, 4, "cpu").batch([(0, 7, r) for r in range(4)])
    assert not other.equal(images[:4])


def test_the_global_generator_is_not_touched(split):
    before = torch.get_rng_state()
    list(batches_of(split)[0])
    held(split)
    assert torch.get_rng_state().equal(before)


# Images that cannot be read.


def test_for_a_bad_image_stands_the_one_that_the_loader_takes():
    broken = split_of(Encoded(pictures(16), broken=(3, 8)))
    plain = Augmentation(crop="none", flip=0.0, rand_augment=None, random_erasing=0.0)
    kept_images = TrainingImages(broken, plain, SIZE, 3, "cpu", BadImages(2))
    samples = TrainingSamples(broken, lambda image, key: to_tensor(fit(image, SIZE)), 3)
    keys = [(epoch, index, 0) for epoch in range(3) for index in (2, 3, 8)]
    images, labels = kept_images.batch(keys)
    for key, image, label in zip(keys, images, labels, strict=True):
        expected, source, _ = samples.load(key)
        assert image.equal(expected)
        assert int(label) == source
    assert len({image.numpy().tobytes() for image in images[1::3]}) > 1  # another one in another epoch


def test_bad_images_are_reported_and_bounded():
    broken = split_of(Encoded(pictures(16), broken=(3, 8)))
    loader, _ = batches_of(broken, bad=2)
    list(loader)
    assert loader.bad.known == {"3.png": "cut off", "8.png": "cut off"}
    with pytest.raises(UnreadableImageError, match=r"^3.png: cannot read the image \(cut off\); replace or remove it$"):
        batches_of(broken)
    with pytest.raises(DataError, match=r"^more than max_bad_images 1 images cannot be read: 3\.png, 8\.png; repair"):
        batches_of(broken, bad=1)


def test_a_blank_that_stands_in_a_decoded_list_is_known_to_be_bad():
    error = UnreadableImageError("1.png", "cut off")
    images = [np.zeros((1, 1, 3), dtype=np.uint8) if n == 1 else one for n, one in enumerate(pictures(4))]
    split = replace(split_of(images), bad={1: error})
    assert kept_size(split, "random-resized", SIZE) == (14, 20)
    found, bad = keep(split, lambda image: torch.from_numpy(image).permute(2, 0, 1), (14, 20), "cpu", BadImages(1))
    assert list(bad) == [1]
    assert not found[1].any()


# Evaluation.


@pytest.mark.parametrize(("count", "world", "even"), [(23, 1, False), (23, 3, True), (12, 4, True), (2, 3, True)])
def test_evaluation_gives_what_the_loader_gives(count, world, even):
    split = split_of(Encoded(pictures(count), broken=(1,)))
    crop = EvaluationCrop(SIZE, 0.8)
    for rank in range(world):
        bad = BadImages(3)
        loader, ours = held(split_of(pictures(24)), val=split, crop=crop, rank=rank, world=world, filled=even, bad=bad)
        theirs = list(evaluation_batches(split, crop, 4, 0, False, (rank, world), BadImages(3), even))
        assert len(ours) == len(theirs)
        for (images, labels, valid), expected in zip(ours, theirs, strict=True):
            assert images.equal(expected[0])
            assert labels.equal(expected[1])
            assert (valid is None) == (expected[2] is None)
            assert valid is None or valid.equal(expected[2])
        assert bad.known == {}
        next(iter(loader))
        assert set(bad.known) == ({"1.png"} if rank == 1 % world else set())


# What is kept, and refused.


def test_pieces_are_put_together_in_order(split, monkeypatch):
    monkeypatch.setattr(on_device, "PIECE", 7)
    found, bad = keep(split, EvaluationCrop(SIZE, 1.0), (SIZE, SIZE), "cpu", BadImages())
    assert bad == {}
    assert found.equal(torch.stack([EvaluationCrop(SIZE, 1.0)(split.images[index]) for index in range(40)]))


def of_two_sizes():
    return [*pictures(3), *pictures(2, 30, 16)]


@pytest.mark.parametrize("images", [of_two_sizes(), Encoded(of_two_sizes())], ids=["decoded", "encoded"])
def test_images_of_several_sizes_are_resized_for_crop_pad_and_else_refused(images, says):
    assert kept_size(split_of(images), "pad", SIZE) == (SIZE, SIZE)
    assert TrainingImages(split_of(images), PAD, SIZE, 0, "cpu").images.shape == (5, 3, SIZE, SIZE)
    with says(
        RecipeError,
        "on_device with crop random-resized needs images of one size, but they go from 14 x 20 to 30 x 16 pixels "
        "(height x width); take --crop pad, for which images are resized to image_size 12 once, or leave "
        "--on-device out",
    ):
        TrainingImages(split_of(images), RESIZED, SIZE, 0, "cpu")


@pytest.mark.parametrize("make", [lambda p: p, list, Encoded], ids=["array", "list", "encoded"])
def test_images_of_one_size_keep_it_for_the_random_resized_crop(make):
    found = TrainingImages(split_of(make(pictures(5))), RESIZED, SIZE, 0, "cpu")
    assert found.images.shape == (5, 3, 14, 20)
    assert np.array_equal(found.images.permute(0, 2, 3, 1), pictures(5))
    assert found.batch([(0, 1, 0)])[0].shape == (1, 3, SIZE, SIZE)


def held(split, device="cpu", val=None, crop=None, rank=0, world=2, filled=False, bad=None):
    data = ImageData("noise", tuple("abcde"), split, val or split_of(pictures(10)))
    order = EpochSampler(len(split), 0, 4, 4, rank=rank, world=world)
    crop = crop or EvaluationCrop(SIZE, 1.0)
    return hold_on_device(data, PAD, order, crop, torch.device(device), bad or BadImages(), filled)


def test_what_does_not_fit_is_refused_with_both_numbers(split, monkeypatch, says):
    monkeypatch.setattr(on_device, "free_memory", lambda device: 3 * 12 * 12 * 45)
    # 40 to train on, and 5 of 10 to validate on in each of two processes
    assert [len(labels) for _, labels, _ in held(split)[1]] == [4, 1]
    monkeypatch.setattr(on_device, "free_memory", lambda device: 3 * 12 * 12 * 45 - 1)
    with says(
        RecipeError,
        "on_device needs 0.0 MB for 40 training images of 12 x 12 and 5 validation images of 12 x 12 pixels, but cpu "
        "has 0.0 MB free; take a smaller --image-size, or leave --on-device out",
    ):
        held(split)
    monkeypatch.setattr(on_device, "free_memory", lambda device: 150_000_000)
    with pytest.raises(RecipeError, match=r"^on_device needs 184\.3 MB for 50000 .* but cpu has 150\.0 MB free;"):
        check_memory(50_000, (32, 32), 10_000, 32, "cpu")
    monkeypatch.setattr(on_device, "free_memory", lambda device: None)  # a device that does not say
    check_memory(10**9, (32, 32), 0, 32, "cpu")


def test_the_free_memory_of_this_machine_is_a_sensible_number():
    free = free_memory(torch.device("cpu"))
    assert free is None or 10**7 < free < 10**15


def test_a_device_without_float64_is_refused(split):
    with pytest.raises(RecipeError, match=r"^on_device computes in float64, which mps does not have;"):
        held(split, device="mps")
