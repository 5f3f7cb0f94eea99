"""FMix: regions of any form, cut from an image of low frequencies."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from transmix.mixing.cells import shape_row
from transmix.mixing.draw import Row, check_alpha, draw_beta


@dataclass(frozen=True)
class FMix:
    """Paste a region of random form whose border is smooth.

    Args:
        alpha: the share that the row keeps is drawn from Beta(alpha, alpha).
        decay: how fast higher frequencies fade, as 1 / frequency^decay: larger is smoother.
        soft: half width of the blended border, as a share of the pixels; 0: a hard mask.

    Raises:
        ValueError: a parameter out of its range.

    Source: Harris et al., FMix (arXiv 2002.12047). Differs from the authors' code: lam is 1 - mean of the
    mask that is used, not the draw; and the spectrum has random real and imaginary parts at every frequency, see
    `fourier_image`.
    """

    alpha: float = 1.0
    decay: float = 3.0
    soft: float = 0.0

    def __post_init__(self) -> None:
        check_alpha("FMix", self.alpha)
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay is a power, at least 0, not {self.decay}")
        if not 0 <= self.soft <= 1:
            raise ValueError(f"soft is a share in [0, 1], not {self.soft}")

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw a region for images of `height` x `width` pixels."""
        lam, seed, rounding = draw_beta(rng, self.alpha), rng.getrandbits(62), rng.choice(("ceil", "floor"))
        return shape_row(FourierShape(seed, lam, self.decay, self.soft, rounding), height, width)


@dataclass(frozen=True)
class FourierShape:
    """FMix's region: a shape for `Row` and `Draw`, made again from its numbers.

    Attributes:
        seed: of the generator that the spectrum comes from.
        lam: share that the row keeps, before rounding.
        decay: as in `FMix`.
        soft: as in `FMix`.
        rounding: "ceil" or "floor", of the number of pixels that the row keeps.
    """

    seed: int
    lam: float
    decay: float
    soft: float
    rounding: str

    def mask(self, height: int, width: int) -> Tensor:
        """Return (H, W) on the CPU, the partner's share of each pixel: bool, or float32 where the border is soft."""
        generator = torch.Generator().manual_seed(self.seed)
        normals = torch.randn(height, width // 2 + 1, 2, generator=generator, dtype=torch.float64)
        gray = fourier_image(normals, height, width, self.decay)
        return threshold_mask(gray, self.lam, self.soft, self.rounding)


def fourier_image(normals: Tensor, height: int, width: int, decay: float = 3) -> Tensor:
    """Return a grey image of low frequencies: the inverse Fourier transform of a spectrum that fades with frequency.

        spectrum = (normal + i * normal) / max(frequency, 1 / max(H, W))^decay

    Args:
        normals: (H, bins, 2) standard normal numbers, real and imaginary parts; bins W // 2 + 1, more are not used.
        height: H.
        width: W.
        decay: power with which frequencies fade.

    Returns:
        (H, W) from 0 to 1 (0 throughout if all is alike), float32, or float64 of such numbers.

    Raises:
        ValueError: numbers of another shape.

    Source: Harris et al., FMix (arXiv 2002.12047). Differs from the authors' code, which takes the real
    and imaginary parts from the first two rows of frequencies instead of the last axis: its images are sums of two
    columns of frequencies.
    """
    bins = width // 2 + 1
    if normals.ndim != 3 or normals.shape[0] != height or normals.shape[1] < bins or normals.shape[2] != 2:
        raise ValueError(f"normals must be ({height}, {bins}, 2), not {tuple(normals.shape)}")
    exact = torch.float64 if normals.dtype == torch.float64 else torch.float32
    down, across = (torch.arange(n, device=normals.device) for n in (height, bins))
    down = torch.minimum(down, height - down) / height  # the size alone counts: negative frequencies are as positive
    frequency = (down[:, None] ** 2 + (across / width)[None] ** 2).sqrt().to(exact)
    scale = frequency.clamp(min=1 / max(height, width)) ** decay
    spectrum = torch.view_as_complex((normals[:, :bins].to(exact) / scale[..., None]).contiguous())
    # One axis after the other: transforms of two axes to real numbers differ between libraries where the spectrum is
    # not that of a real image.
    image = torch.fft.irfft(torch.fft.ifft(spectrum, dim=0), n=width, dim=1)
    image = image - image.min()
    return image / image.max().clamp(min=torch.finfo(exact).tiny)


def threshold_mask(gray: Tensor, lam: float, soft: float = 0.0, rounding: str = "ceil") -> Tensor:
    """Return the partner's share of each pixel: the row keeps the brightest pixels of a grey image.

    Args:
        gray: (H, W); among equal pixels the first in row-major order counts as the brightest.
        lam: share of the pixels that the row keeps.
        soft: the brightest lam - soft of the pixels are the row's, the darkest 1 - lam - soft the partner's, and a
            straight line by rank lies between; cut to lam or 1 - lam where these are less. 0: a hard mask.
        rounding: "ceil" or "floor", of the number of pixels that the row keeps.

    Returns:
        (H, W) bool, or float32 with `soft`.

    Raises:
        ValueError: a parameter out of its range.

    Source: Harris et al., FMix (arXiv 2002.12047).
    """
    if not (0 <= lam <= 1 and 0 <= soft <= 1):
        raise ValueError(f"lam and soft are shares in [0, 1], not {lam} and {soft}")
    if rounding not in ("ceil", "floor"):
        raise ValueError(f"rounding must be 'ceil' or 'floor', not {rounding!r}")
    pixels = gray.numel()
    keep = (math.ceil if rounding == "ceil" else math.floor)(lam * pixels)
    half = min(int(pixels * min(soft, lam, 1 - lam)), keep, pixels - keep)
    share = torch.ones(pixels, device=gray.device, dtype=torch.float32 if soft else torch.bool)
    order = gray.flatten().sort(descending=True, stable=True).indices
    share[order[: keep - half]] = 0
    if half:
        share[order[keep - half : keep + half]] = torch.linspace(0, 1, 2 * half, device=gray.device)
    return share.view(gray.shape)
