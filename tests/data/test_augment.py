"""Augmentation follows from the sample's key alone; evaluation crops as torchvision does."""

import hashlib
import itertools
import math
import random
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from transmix.data import augment, augment_1
from transmix.data.augment import EvaluationCrop, TrainingAugmentation, resized
from transmix.data.boxes import crop_box
from transmix.data.dataset import Split, keep_decoded
from transmix.data.encoded import image_files
from transmix.data.fit import fit, shift, to_tensor
from transmix.data.image_operations import _moved, posterize
from transmix.data.seeding import global_generators
from transmix.data.settings import Augmentation
from transmix.recipes import Recipe
from transmix.recipes.file import dump_recipe
from transmix.runs.folder import as_started, read_recipe, younger_notice

SIZE = 16
OFF = {"rand_augment": None, "color_jitter": 0.0, "random_erasing": 0.0}
WITH = {
    "rand_augment": OFF | {"rand_augment": "rand-m9-mstd0.5-inc1"},
    "color_jitter": OFF | {"color_jitter": 0.4},
    "erasing": OFF | {"random_erasing": 0.8},
}
EVERYTHING = [
    pytest.param(crop, kind, id=f"{crop}-{kind}") for crop in ("none", "pad", "random-resized") for kind in WITH
]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 4), np.cos(columns / 3), np.sin((rows + 2 * columns) / 9)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def augmentation(size=SIZE, **settings):
    return TrainingAugmentation(Augmentation(**{"crop": "none", "flip": 0.0, **OFF, **settings}), size)


def channels_last(image):
    return image.permute(1, 2, 0).numpy()


def global_states():
    return random.getstate(), np.append(*np.random.get_state()[1:3]).tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def follows_from_the_key(change):
    image = noise(20, 28)
    first = [change(image, key) for key in range(6)]
    second = [change(image, key) for key in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def leaves_global_generators_alone(change):
    before = global_states()
    for key in range(6):
        change(noise(20, 28), key)
    assert global_states() == before


@pytest.mark.parametrize(("crop", "kind"), EVERYTHING)
def test_a_key_gives_the_same_pixels_other_keys_others_and_global_generators_are_untouched(crop, kind):
    change = augmentation(crop=crop, flip=0.5, **WITH[kind])
    follows_from_the_key(change)
    leaves_global_generators_alone(change)
    assert len({change(noise(20, 28), key).numpy().tobytes() for key in range(12)}) >= 6


@pytest.mark.parametrize(("crop", "kind"), EVERYTHING)
def test_a_square_uint8_image_comes_out_and_the_one_that_went_in_is_not_changed(crop, kind):
    change = augmentation(crop=crop, flip=0.5, **WITH[kind])
    for height, width in ((20, 28), (31, 17), (SIZE, SIZE), (9, 12)):
        image = noise(height, width)
        for key in range(3):
            out = change(image, key)
            assert out.shape == (3, SIZE, SIZE)
            assert out.dtype == torch.uint8
            out.fill_(0)
        assert np.array_equal(image, noise(height, width))


@pytest.mark.parametrize(
    ("version", "kind"), [(1, "rand_augment"), (1, "color_jitter"), (1, "erasing"), (2, "rand_augment")]
)
def test_libraries_left_to_the_global_generators_would_break_both_promises(version, kind, monkeypatch):
    monkeypatch.setattr(augment_1, "global_generators", lambda seed: nullcontext())
    monkeypatch.setattr(augment, "python_generator", lambda seed: nullcontext())
    change = augmentation(crop="random-resized", pixel_version=version, **WITH[kind])
    with pytest.raises(AssertionError):
        follows_from_the_key(change)
    with pytest.raises(AssertionError):
        leaves_global_generators_alone(change)


@pytest.mark.parametrize("policy", ["rand-m9-n3-tweights", "rand-m5-t3a", "rand-mstd101-inc1"])
def test_other_policies_follow_from_the_key_too(policy):
    change = augmentation(rand_augment=policy)
    follows_from_the_key(change)
    leaves_global_generators_alone(change)


# Versions.

OLD = {
    (False, "crop"): "82ce58cc176a05d2",
    (False, "jitter"): "d442be459cd07e51",
    (False, "erasing"): "3adebb2e524dd72b",
    (True, "crop"): "54d6e6a868db60e5",
    (True, "jitter"): "7a8dc3c3541022f7",
    (True, "erasing"): "68cbf77b29141270",
}
"""Of masks or not, and settings -> hash of 40 images, as made before there was a version 2."""

OLD_SETTINGS = {
    "crop": {},
    "jitter": {"crop": "pad", "rand_augment": None, "color_jitter": 0.4},
    "erasing": {"crop": "none", "random_erasing": 1.0},
}


def hash_of(version, of_masks, kind):
    change = TrainingAugmentation(Augmentation(pixel_version=version, **OLD_SETTINGS[kind]), 32, of_masks)
    pixels = b"".join(change(smooth(50, 70), key).numpy().tobytes() for key in range(40))
    return hashlib.blake2b(pixels, digest_size=8).hexdigest()


@pytest.mark.parametrize(("of_masks", "kind"), OLD)
def test_version_1_makes_the_very_pixels_of_before(of_masks, kind):
    assert hash_of(1, of_masks, kind) == OLD[of_masks, kind]
    assert hash_of(2, of_masks, kind) != OLD[of_masks, kind]


def test_a_run_whose_recipe_lacks_the_version_keeps_version_1(tmp_path):
    lines = dump_recipe(Recipe()).splitlines(keepends=True)
    (tmp_path / "recipe.yaml").write_text("".join(line for line in lines if "pixel_version" not in line))
    assert read_recipe(tmp_path).augmentation.pixel_version == 1
    assert as_started(tmp_path, Recipe()).augmentation.pixel_version == 1
    assert "pixel_version: 2 -> 1" in str(younger_notice(Recipe(), as_started(tmp_path, Recipe())))
    (tmp_path / "recipe.yaml").write_text("".join(lines))
    assert read_recipe(tmp_path).augmentation.pixel_version == 2
    assert as_started(tmp_path, Recipe()).augmentation.pixel_version == 2


@pytest.mark.parametrize(("height", "width", "size"), [(70, 90, 32), (40, 33, 32), (200, 130, 48), (12, 9, 32)])
def test_resizing_is_at_most_a_level_from_pillows(height, width, size):
    image = noise(height, width)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(resized(image, size).astype(int) - expected).max() <= 1
    assert np.abs(resized(image, size).astype(int) - np.roll(expected, 1, 0)).max() > 20


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"])
@pytest.mark.parametrize("magnitude", [0.0, 0.7, 5.3, 9.0])
def test_shears_and_translations_are_at_most_a_level_from_timms(name, magnitude):
    fill, image = {"fillcolor": (9, 120, 201), "resample": Image.Resampling.BICUBIC}, Image.fromarray(noise(31, 44))
    operation = AugmentOp(name, hparams={"translate_const": 18})
    for amount in {*operation.level_fn(magnitude, operation.hparams), -0.31}:
        expected = np.asarray(operation.aug_fn(image, amount, **fill), dtype=int)
        assert np.abs(np.asarray(_moved(name, image, amount, **fill)) - expected).max() <= 1
        assert np.abs(np.asarray(_moved(name, image, amount + 0.2, **fill)) - expected).max() > 5


def test_a_large_file_and_its_pixels_in_memory_are_cropped_alike(tmp_path):
    image = smooth(300, 420)
    Image.fromarray(image).save(tmp_path / "large.jpg", quality=95)
    split = Split(image_files(tmp_path, ["large.jpg"]), np.zeros(1, dtype=np.int64))
    change = augmentation(32, crop="random-resized", flip=0.5)
    boxes = [crop_box(random.Random(key), 300, 420, (0.08, 1.0), (0.75, 1.3333), 32) for key in range(12)]
    assert max(box.reduce for box in boxes) >= 4
    files = np.stack([change.read(partial(split.part, 0), key) for key in range(12)]).astype(int)
    memory = np.stack([change(split.image(0), key) for key in range(12)])
    assert np.abs(files - memory).mean() < 5.0
    assert np.abs(files - np.roll(memory, 1, axis=0)).mean() > 20.0
    kept = keep_decoded(split, 10**9, max_bad=0)
    assert isinstance(kept.images, np.ndarray)
    again = np.stack([change.read(partial(kept.part, 0), key) for key in range(12)])
    assert np.array_equal(again, files)
    assert not np.array_equal(memory, files)


def test_arrays_that_a_library_reads_are_cropped_alike_in_memory():
    class Pictures:  # as torchvision's sets of one large file
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return smooth(300, 420)

        def size(self, index):
            return 300, 420

    split = Split(Pictures(), np.zeros(1, dtype=np.int64))
    kept = keep_decoded(split, 10**9)
    assert isinstance(kept.images, np.ndarray)
    change = augmentation(32, crop="random-resized")
    for key in range(4):
        assert change.read(partial(kept.part, 0), key).equal(change.read(partial(split.part, 0), key))


# Shift.


def mirrored(position, length):
    return -position if position < 0 else 2 * (length - 1) - position if position >= length else position


def clamped(position, length):
    return min(max(position, 0), length - 1)


def moved(image, down, right, border=mirrored):
    height, width = image.shape[:2]
    out = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            out[row, column] = image[border(row + down, height), border(column + right, width)]
    return out


def which_shift(image, out, pad, border=mirrored):
    steps = range(-pad, pad + 1)
    return [move for move in itertools.product(steps, steps) if np.array_equal(out, moved(image, *move, border))]


def test_a_shift_moves_the_image_and_mirrors_what_comes_in():
    image, pad = noise(5, 8), 2
    outs = [shift(image, pad, random.Random(key)) for key in range(150)]
    moves = [which_shift(image, out, pad) for out in outs]
    assert all(len(move) == 1 for move in moves)
    assert {move[0] for move in moves} == set(itertools.product(range(-2, 3), range(-2, 3)))  # each way, and not at all
    assert not all(which_shift(image, out, pad, clamped) for out in outs)


def test_crop_pad_is_a_shift_of_the_fitted_image():
    change = augmentation(crop="pad", pad=3)
    image = noise(24, 33)
    for key in range(5):
        assert len(which_shift(fit(image, SIZE), channels_last(change(image, key)), 3)) == 1


# Random resized crop.


def test_crop_scale_and_ratio_mean_area_and_width_by_height():
    image = smooth(20, 30)
    whole = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    change = augmentation(crop="random-resized", crop_scale=(1.0, 1.0), crop_ratio=(1.5, 1.5))
    assert np.abs(channels_last(change(image, 0)).astype(int) - whole).max() <= 1
    swapped = augmentation(crop="random-resized", crop_scale=(1.0, 1.0), crop_ratio=(1 / 1.5, 1 / 1.5))
    assert np.abs(channels_last(swapped(image, 0)).astype(int) - whole).max() > 9
    smaller = augmentation(crop="random-resized", crop_scale=(0.3, 0.3), crop_ratio=(1.5, 1.5))
    assert np.abs(channels_last(smaller(image, 0)).astype(int) - whole).max() > 9


# Flip.


@pytest.mark.parametrize("key", range(8))
def test_flip_1_always_mirrors_left_and_right_and_flip_0_never(key):
    image = noise(SIZE, SIZE)
    assert np.array_equal(channels_last(augmentation(flip=1.0)(image, key)), image[:, ::-1])
    assert np.array_equal(channels_last(augmentation(flip=0.0)(image, key)), image)


@pytest.mark.parametrize(("setting", "chance"), [("flip", 0.3), ("random_erasing", 0.25)])
def test_the_chance_of_a_change_is_what_the_setting_says(setting, chance):
    image = noise(SIZE, SIZE)
    change = augmentation(**{setting: chance})
    changed = sum(not np.array_equal(channels_last(change(image, key)), image) for key in range(600))
    assert abs(changed / 600 - chance) < 0.08


# Erasing.


def one_rectangle(changed):
    """Whether the changed pixels fill their bounding box, but for noise that met the pixel's own value."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return box.mean() > 0.97


def test_two_rectangles_are_told_from_one():
    changed = np.zeros((12, 15), dtype=bool)
    changed[2:5, 3:9] = True
    assert one_rectangle(changed)
    changed[8:10, 12:14] = True
    assert not one_rectangle(changed)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_erasing_changes_one_rectangle_and_leaves_all_other_pixels_bit_equal(flip):
    image = noise(40, 40)
    plain, erased = augmentation(40, flip=flip), augmentation(40, flip=flip, random_erasing=1.0)
    for key in range(20):
        changed = (plain(image, key) != erased(image, key)).any(0).numpy()
        assert one_rectangle(changed)
        assert 0.015 < changed.mean() < 0.35


def test_erased_pixels_are_noise_with_the_mean_and_deviation_of_the_settings():
    mean, std = (0.2, 0.5, 0.8), (0.02, 0.05, 0.04)
    change = augmentation(64, random_erasing=1.0, mean=mean, std=std)
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels = np.concatenate([out[out.any(-1)] for out in (channels_last(change(image, key)) for key in range(10))])
    assert np.allclose(pixels.mean(0) / 255, mean, atol=0.01)
    assert np.allclose(pixels.std(0) / 255, std, atol=0.006)


@pytest.mark.parametrize("side", [3, SIZE, 40])
def test_erased_pixels_are_timms_of_the_normalised_image(side):
    """timm erases floats that are normalised already; images travel as bytes here."""
    settings = Augmentation(random_erasing=1.0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.mean, settings.std))
    theirs, ours = RandomErasing(probability=1.0, mode="pixel", device="cpu"), augment_1._erasing(settings)
    for seed in range(20):
        image = noise(side, side, seed)
        with global_generators(seed):
            normalised = theirs((to_tensor(image).float() / 255 - mean) / std)
        with global_generators(seed):
            found = ours(image)
        expected = ((normalised * std + mean) * 255).round().clamp(0, 255).byte()
        assert torch.equal(to_tensor(found), expected)


# Settings.


@pytest.mark.parametrize("policy", ["", "autumn", "rand-q9", "augmix-m3", "original"])
def test_a_policy_that_timm_does_not_know_is_an_error(policy):
    with pytest.raises(ValueError, match=f"^timm does not know the policy rand_augment '{policy}'$"):
        augmentation(rand_augment=policy)


def test_posterizing_to_no_bits_makes_the_image_black_and_raises_nothing():
    change = augmentation(rand_augment="rand-m10-inc1")  # full strength; newer Pillow refuses it
    image = noise(SIZE, SIZE)
    black = sum(not change(image, key).any() for key in range(300))
    assert 5 < black < 60  # two of 15 operations, each with a chance of one half: one image in 15


def test_posterizing_to_some_bits_keeps_the_upper_ones():
    image = noise(9, 14)
    for bits in (1, 3, 8):
        kept = np.asarray(posterize(Image.fromarray(image), bits, fillcolor=0))
        assert np.array_equal(kept, image // 2 ** (8 - bits) * 2 ** (8 - bits))


def test_colour_jitter_is_used_only_where_there_is_no_rand_augment():
    both = augmentation(color_jitter=0.4, rand_augment="rand-m9-inc1")
    alone = augmentation(rand_augment="rand-m9-inc1")
    jitter = augmentation(color_jitter=0.4)
    image = smooth(SIZE, SIZE)
    assert all(torch.equal(both(image, key), alone(image, key)) for key in range(4))
    assert not all(torch.equal(jitter(image, key), alone(image, key)) for key in range(4))


# Evaluation.


def torchvision_crop(image, size, crop):
    steps = Compose([Resize(math.floor(size / crop), InterpolationMode.BICUBIC), CenterCrop(size)])
    return np.asarray(steps(Image.fromarray(image)))


def difference(image, size, crop, reference):
    return np.abs(channels_last(EvaluationCrop(size, crop)(image)).astype(int) - reference.astype(int)).max()


@pytest.mark.parametrize("pixels", [noise, smooth, lambda height, width: noise(height, width, seed=1) // 2])
@pytest.mark.parametrize("crop", [0.8, 0.875, 1.0])
@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (60, 40), (33, 97), (97, 33), (37, 53), (20, 21), (50, 50), (24, 31), (12, 17)]
)
def test_the_evaluation_crop_is_torchvisions_resize_and_centre_crop(height, width, crop, pixels):
    image = pixels(height, width)
    for size in (17, 24):
        assert difference(image, size, crop, torchvision_crop(image, size, crop)) <= 1


def test_another_crop_is_told_from_torchvisions():
    image = noise(40, 60)
    assert difference(image, 24, 0.8, torchvision_crop(image, 24, 1.0)) > 50
    assert difference(image, 24, 0.8, np.roll(torchvision_crop(image, 24, 0.8), 1, axis=1)) > 50


def test_an_image_of_the_right_size_is_evaluated_as_it_is():
    image = noise(SIZE, SIZE)
    assert np.array_equal(channels_last(EvaluationCrop(SIZE, 1.0)(image)), image)
    assert not np.array_equal(channels_last(EvaluationCrop(SIZE, 0.875)(image)), image)
    EvaluationCrop(SIZE, 1.0)(image).fill_(0)  # which is memory of its own
    assert np.array_equal(image, noise(SIZE, SIZE))
