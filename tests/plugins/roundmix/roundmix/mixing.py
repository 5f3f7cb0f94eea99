"""A disc of the partner with a soft border."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from transmix.mixing import Row


@dataclass(frozen=True)
class Disc:
    """A disc, in pixels."""

    top: float
    left: float
    radius: float
    border: float

    def mask(self, height: int, width: int) -> Tensor:
        down, across = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
        distance = ((down - self.top) ** 2 + (across - self.left) ** 2).sqrt()
        return ((self.radius - distance) / self.border + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class RoundMix:
    """Paste a disc whose radius is up to `size` of the shorter side."""

    size: float = 0.4
    border: float = 4.0

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        radius = rng.uniform(0, self.size) * min(height, width)
        disc = Disc(rng.uniform(0, height), rng.uniform(0, width), radius, self.border)
        return Row(1 - float(disc.mask(height, width).mean()), shape=disc)
