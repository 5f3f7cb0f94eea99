"""Saliency without a model: what an image's spectrum has beyond a smooth one."""

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.mixing.maps import area_mean

SIDE = 64
"""Pixels of the longer side at which the spectrum is looked at."""

SIGMA = 2.5
"""Standard deviation in pixels, at that size, of the Gaussian that smooths the map."""


def spectral_residual(images: Tensor) -> Tensor:
    """Return how much each pixel stands out, by the spectral residual.

        residual = log |F| - mean of log |F| over 3 x 3 frequencies         F: Fourier transform of the grey image
        saliency = smooth(|inverse transform of exp(residual + i phase(F))|^2)

    Args:
        images: (B, C, H, W), of any type and scale; grey is the channels' mean.

    Returns:
        (B, H, W) float32 from 0 to 1 in each image; 0 throughout where an image is of one grey. Without gradient.

    Raises:
        ValueError: images of another shape.

    Source: Hou & Zhang, Saliency Detection: A Spectral Residual Approach (CVPR 2007). The longer side is
    brought to 64 pixels (smaller images stay); the smoothing is that of the authors' program, sigma 2.5 there.
    Frequencies are periodic, so the 3 x 3 mean goes round the border.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    height, width = images.shape[-2:]
    shrink = max(height, width, SIDE) / SIDE
    size = max(round(height / shrink), 1), max(round(width / shrink), 1)
    # Autocast would compute sums in half precision.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        grey = images.detach().float().mean(1)
        spectrum = torch.fft.fft2(area_mean(grey, *size))
        amplitude = spectrum.abs()
        # An amplitude of 0 has no logarithm. Relative to the largest, so that the images' scale changes nothing.
        floor = (1e-6 * amplitude.amax((1, 2), keepdim=True)).clamp(min=torch.finfo(torch.float32).tiny)
        log = (amplitude + floor).log()
        mean = sum(log.roll((down, right), (1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1)) / 9
        saliency = torch.fft.ifft2(torch.polar((log - mean).exp(), spectrum.angle())).abs() ** 2
        saliency = _gaussian(size[0], images.device) @ saliency @ _gaussian(size[1], images.device).T
        saliency = F.interpolate(saliency[:, None], (height, width), mode="bilinear")[:, 0]
        saliency = saliency - saliency.amin((1, 2), keepdim=True)
        saliency = saliency / saliency.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        contrast = grey.amax((1, 2), keepdim=True) - grey.amin((1, 2), keepdim=True)
        is_flat = contrast <= 1e-6 * grey.abs().amax((1, 2), keepdim=True)  # what is left is rounding
        return torch.where(is_flat, 0, saliency)


def _gaussian(pixels: int, device: torch.device) -> Tensor:
    """Return (pixels, pixels): the weight of each pixel in each smoothed one, along one axis; rows sum to 1."""
    at = torch.arange(pixels, device=device)
    weights = torch.exp(-((at[:, None] - at[None]) ** 2) / (2 * SIGMA**2))
    return weights / weights.sum(1, keepdim=True)
