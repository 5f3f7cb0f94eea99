"""Classes of uneven size: indices that draw each class equally often, and weights of the classes in the loss."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from transmix.data.dataset import DataError, printable


def balanced_indices(members: Sequence[np.ndarray], number: int, generator: np.random.Generator) -> np.ndarray:
    """Return the indices of `number` images in random order, each class equally often.

    The images of a class come in random order, and in another one when all have come.

    Args:
        members: for each class, the indices of its images.
        number: number of indices; if it is no multiple of the classes, random classes give one more.
        generator: source of randomness.
    """
    counts = np.full(len(members), number // len(members))
    counts[generator.permutation(len(members))[: number % len(members)]] += 1
    drawn = []
    for images, count in zip(members, counts, strict=True):
        rounds = (generator.permutation(images) for _ in range(-(-count // len(images))))
        drawn.append(np.concatenate([images[:0], *rounds])[:count])
    return generator.permutation(np.concatenate(drawn))


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Return the weight of each class in the loss, N / (K n), (K,) float32; its mean over the images is 1.

    Args:
        labels: (N,) int64.
        classes: K; each class has n > 0 images.
    """
    return torch.from_numpy(len(labels) / (classes * np.bincount(labels, minlength=classes))).float()


def check_balance(balance: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Check that balancing the classes of the training images is possible and changes something.

    Args:
        balance: 'sampler' or 'loss'.
        labels: (N,) int64.
        classes: names of the K classes.

    Raises:
        DataError: all classes have the same number of images, or one has none.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() == 0:
        raise DataError(f"balance {balance}: class {printable(classes[int(counts.argmin())])} has no training image")
    if counts.min() == counts.max():
        raise DataError(
            f"balance {balance} would change nothing: each of the {len(classes)} classes has {counts[0]} training "
            f"images; leave --balance out"
        )
