"""Given the same draws, a batch's pixels are those of NumPy, Pillow and torchvision, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pillow

from transmix.data import batch_pixels
from transmix.data.batch_augment import ORDERS, jitter_factors, noise_levels
from transmix.data.batch_pixels import erase, jittered, resized_crop, shifted

KEYS = (1, 2)


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def planes(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def same(planes, images):
    return np.array_equal(planes.permute(0, 2, 3, 1).numpy(), np.stack(images))


def samples(count, epoch=0):
    return torch.stack([torch.full((count,), epoch), torch.arange(count), torch.zeros(count, dtype=torch.int64)], 1)


# Shift.


def numpy_shift(image, down, right, pad, mode="reflect"):
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    return padded[pad + down : pad + down + height, pad + right : pad + right + width]


@pytest.mark.parametrize(("height", "width", "pad"), [(5, 8, 2), (9, 6, 4), (4, 3, 7), (1, 5, 2)])
def test_a_shift_is_numpys_reflecting_pad_and_a_crop(height, width, pad):
    moves = torch.cartesian_prod(torch.arange(-pad, pad + 1), torch.arange(-pad, pad + 1))
    images = noise(len(moves), height, width)
    out = shifted(planes(images), moves)
    assert same(out, [numpy_shift(one, *move, pad) for one, move in zip(images, moves.tolist(), strict=True)])
    assert not same(
        out, [numpy_shift(one, *m, pad, "symmetric") for one, m in zip(images, moves.tolist(), strict=True)]
    )


# Resized crop.


def boxes_in(height, width, count, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return torch.from_numpy(np.stack([top, left, rows, columns], 1))


def pillow_crops(images, boxes, size, interpolation=InterpolationMode.BICUBIC):
    return [
        np.asarray(pillow.resized_crop(Image.fromarray(one), *box, [size, size], interpolation))
        for one, box in zip(images, boxes.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("height", "width", "size"), [(16, 16, 16), (20, 14, 16), (37, 53, 12), (9, 40, 24), (64, 64, 7), (1, 3, 5)]
)
def test_a_resized_crop_is_pillows(height, width, size):
    images, boxes = noise(60, height, width), boxes_in(height, width, 60, seed=size)
    out = resized_crop(planes(images), boxes, size)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()
    assert same(out, pillow_crops(images, boxes, size))


def test_another_crop_is_told_from_pillows():
    images, boxes = noise(40, 20, 14), boxes_in(20, 14, 40, seed=1)
    out = resized_crop(planes(images), boxes, 16)
    assert not same(out, pillow_crops(images, boxes, 16, InterpolationMode.BILINEAR))
    assert not same(
        resized_crop(planes(images), boxes[:, [1, 0, 3, 2]].clamp(max=14), 16), pillow_crops(images, boxes, 16)
    )


# Colour.


def pillow_jitter(image, order, factors):
    change = (pillow.adjust_brightness, pillow.adjust_contrast, pillow.adjust_saturation)
    image = Image.fromarray(image)
    for kind in order:
        image = change[kind](image, factors[kind])
    return np.asarray(image)


@pytest.mark.parametrize("strength", [0.1, 0.4, 1.5])
def test_jitter_is_pillows_in_any_order(strength):
    words = torch.randint(2**32, (120, 3), generator=torch.Generator().manual_seed(1))
    factors, order = jitter_factors(words, strength), torch.tensor(ORDERS).repeat(20, 1)
    images = noise(120, 7, 10)
    images[:30] //= 16  # dark, where rounding shows most
    out = jittered(planes(images), order, factors)
    assert out.dtype == torch.uint8
    rows = list(zip(images, order.tolist(), factors.tolist(), strict=True))
    assert same(out, [pillow_jitter(*row) for row in rows])
    assert not same(out, [pillow_jitter(image, order[::-1], factors) for image, order, factors in rows])


# Erasing.


def erased(images, boxes, epoch=0, levels=None):
    levels = noise_levels((0.4, 0.5, 0.6), (0.2, 0.2, 0.2)) if levels is None else levels
    return erase(images, boxes, samples(len(images), epoch), KEYS, levels)


def test_exactly_the_box_is_filled_and_what_went_in_stays():
    images, levels = planes(noise(50, 11, 9)) // 2, torch.full((3, 1 << 16), 200, dtype=torch.uint8)
    before, boxes = images.clone(), boxes_in(11, 9, 50, seed=2)
    boxes[:5] = 0
    out = erased(images, boxes, levels=levels)
    expected = before.clone()
    for one, (top, left, rows, columns) in zip(expected, boxes.tolist(), strict=True):
        one[:, top : top + rows, left : left + columns] = 200
    assert out.equal(expected)
    assert images.equal(before)


def test_noise_is_uniform_in_each_channels_quantiles_and_no_two_pixels_or_samples_share_it():
    levels = (torch.arange(1 << 16) >> 8).byte().expand(3, -1)  # the number itself
    whole = torch.tensor([[0, 0, 20, 30]]).expand(60, 4)
    blank = torch.zeros(60, 3, 20, 30, dtype=torch.uint8)
    out, later = (erased(blank, whole, epoch, levels).double() for epoch in (0, 1))
    counts = torch.bincount(out.long().flatten(), minlength=256)
    assert 150 < float(((counts - counts.double().mean()) ** 2 / counts.double().mean()).sum()) < 360  # chi-square, 255
    for other in (later, out.roll(1, 0), out.roll(1, 1), out.roll(1, 2), out.roll(1, 3), out.flip(3)):
        assert abs(float(torch.corrcoef(torch.stack([out.flatten(), other.flatten()]))[0, 1])) < 0.012
    tied = out[:, :1].expand_as(out)  # as of noise without colour
    assert float(torch.corrcoef(torch.stack([out.flatten(), tied.flatten()]))[0, 1]) > 0.3


def test_noise_levels_are_the_normal_distribution_clipped_to_bytes():
    mean, std = (0.1, 0.5, 0.95), (0.25, 0.02, 0.2)
    levels = noise_levels(mean, std)
    assert levels.shape == (3, 1 << 16)
    drawn = np.random.default_rng(0).normal(size=200_000)
    for channel in range(3):
        pixels = np.clip(np.round((drawn * std[channel] + mean[channel]) * 255), 0, 255)
        ours = np.bincount(levels[channel].numpy(), minlength=256).cumsum() / 2**16
        theirs = np.bincount(pixels.astype(int), minlength=256).cumsum() / 200_000
        assert np.abs(ours - theirs).max() < 0.005  # Kolmogorov's distance


def test_a_large_image_has_enough_words(monkeypatch):
    asked = []
    inner = batch_pixels.words
    monkeypatch.setattr(batch_pixels, "words", lambda *rest: asked.append(rest[-1]) or inner(*rest))
    erased(torch.zeros(1, 3, 5, 3, dtype=torch.uint8), torch.tensor([[0, 0, 5, 3]]))
    assert asked == [6]  # 45 values of 16 bits, 8 in a block
