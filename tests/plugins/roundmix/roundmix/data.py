"""Bright squares and dark ones."""

import numpy as np

from transmix.data.dataset import ImageData, Split


def shapes(seed):
    return ImageData("shapes", ("dark", "bright"), train=_draw(seed, 64), val=_draw(seed + 1, 32))


def _draw(seed, number):
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    images = rng.integers(0, 120, (number, 16, 16, 3), dtype=np.uint8) + 120 * labels[:, None, None, None].astype(
        np.uint8
    )
    return Split(images=images, labels=labels)
