"""The spectral residual: against NumPy step by step, and what a map of saliency must be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transmix.mixing import spectral_residual
from transmix.mixing.maps import area_mean


def disc(height=96, width=64, at=(60, 40), radius=7, noise=0.02, seed=0):
    """A bright disc on a plain, slightly noisy ground."""
    rng = torch.Generator().manual_seed(seed)
    down, across = torch.arange(height)[:, None] - at[0], torch.arange(width)[None] - at[1]
    image = 0.3 + 0.6 * (down**2 + across**2 <= radius**2) + noise * torch.randn(height, width, generator=rng)
    return image.expand(1, 3, height, width).clone()


def in_numpy(image):
    """The slow way for an image that is not made smaller."""
    grey = image.mean(0).double().numpy()
    height, width = grey.shape
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum) + 1e-6 * np.abs(spectrum).max())
    mean = np.zeros_like(log)
    for y in range(height):
        for x in range(width):
            mean[y, x] = np.mean([log[(y + i) % height, (x + j) % width] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    saliency = np.abs(np.fft.ifft2(np.exp(log - mean + 1j * np.angle(spectrum)))) ** 2
    for axis, n in ((0, height), (1, width)):
        weights = np.exp(-((np.arange(n)[:, None] - np.arange(n)[None]) ** 2) / (2 * 2.5**2))
        weights /= weights.sum(1, keepdims=True)
        saliency = np.moveaxis(np.tensordot(weights, saliency, (1, axis)), 0, axis)
    saliency -= saliency.min()
    return saliency / saliency.max()


@pytest.mark.parametrize("size", [(24, 36), (13, 20), (64, 33), (5, 4)])
def test_the_map_is_that_of_numpy(size):
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    got = spectral_residual(images)
    want = np.stack([in_numpy(image) for image in images])
    assert np.abs(got.numpy() - want).max() < 2e-4
    assert np.abs(got.numpy() - want.mean(0)).max() > 0.05  # a map of its own for each image


@pytest.mark.parametrize(("size", "at"), [((96, 64), (60, 40)), ((224, 300), (60, 220)), ((40, 50), (12, 35))])
def test_the_disc_stands_out(size, at):
    saliency = spectral_residual(disc(*size, at, radius=min(size) // 9))[0]
    peak = divmod(int(saliency.argmax()), size[1])
    assert abs(peak[0] - at[0]) <= min(size) // 6
    assert abs(peak[1] - at[1]) <= min(size) // 6
    assert abs(peak[0] - at[1]) > min(size) // 6  # turned, it would be elsewhere


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3), st.integers(0, 99))
def test_any_size_gives_a_map_from_0_to_1(height, width, size, seed):
    images = torch.rand(size, 3, height, width, generator=torch.Generator().manual_seed(seed))
    before, states = images.clone(), torch.get_rng_state()
    saliency = spectral_residual(images)
    assert saliency.shape == (size, height, width)
    assert saliency.dtype == torch.float32
    assert saliency.isfinite().all()
    assert saliency.min() >= 0
    assert saliency.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), states)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(spectral_residual(images[order]), saliency[order], atol=1e-5)


def test_scale_and_type_change_nothing_and_autocast_neither():
    image = (disc() * 255).round().clamp(0, 255)
    saliency = spectral_residual(image)
    assert torch.allclose(spectral_residual(image / 255), saliency, atol=1e-3)
    assert torch.equal(spectral_residual(image.to(torch.uint8)), saliency)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(spectral_residual(image), saliency)
    assert not spectral_residual(image.requires_grad_()).requires_grad


@pytest.mark.parametrize("level", [0.0, 0.3, 200.0])
def test_an_image_of_one_grey_has_no_salient_place(level):
    assert spectral_residual(torch.full((2, 3, 30, 41), level)).abs().max() == 0


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^images must be \(B, C, H, W\), not \(3, 8, 9\)$"):
        spectral_residual(torch.ones(3, 8, 9))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_an_area_mean_is_the_mean_over_fine_squares(h, w, height, width, seed):
    maps = torch.rand(2, h, w, generator=torch.Generator().manual_seed(seed))
    fine = maps.repeat_interleave(height, 1).repeat_interleave(width, 2)  # each cell in height x width squares
    slow = fine.view(2, height, h, width, w).mean((2, 4))
    assert torch.allclose(area_mean(maps, height, width), slow, atol=1e-6)
    if (h, w) != (height, width) and h * w > 1:
        assert area_mean(maps, height, width).shape == (2, height, width)
