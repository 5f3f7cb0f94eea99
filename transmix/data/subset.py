"""Fewer training images than there are: how much a method gains from data is asked with less of it."""

from dataclasses import replace
from typing import Any

import numpy as np

from transmix.data.dataset import DataError, Images, Split
from transmix.data.seeding import derive_seed


class _Chosen:
    """Some of the images that another sequence decodes, by position in it."""

    def __init__(self, images: Any, positions: np.ndarray):
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.images[int(self.positions[index])]

    def size(self, index: int) -> tuple[int, int]:
        return self.images.size(int(self.positions[index]))

    def where(self, index: int) -> str:
        return self.images.where(int(self.positions[index]))


def choose(split: Split, count: int) -> Split:
    """Take some images of a split, equally many of each class as far as they go.

    They are the same for every seed, and those of a smaller count are among those of a larger one; their order stays.

    Raises:
        DataError: If there are fewer, or not one of each class would be taken.
    """
    classes = len(np.unique(split.labels))
    if count > len(split):
        raise DataError(f"train_images {count} is more than the {len(split)} training images there are")
    if count < classes:
        raise DataError(f"train_images {count} is less than one of each of {classes} classes")
    shuffled = np.random.default_rng(derive_seed("train_images")).permutation(len(split))
    turn = np.empty(len(split), dtype=np.int64)  # which of its class an image is, as shuffled
    for label in np.unique(split.labels):
        of_class = shuffled[split.labels[shuffled] == label]
        turn[of_class] = np.arange(len(of_class))
    chosen = np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:count])
    images: Images
    if isinstance(split.images, np.ndarray):
        images = split.images[chosen]
    elif isinstance(split.images, list):
        images = [split.images[index] for index in chosen]
    else:
        images = _Chosen(split.images, chosen)
    place = {int(index): new for new, index in enumerate(chosen)}
    return replace(
        split,
        images=images,
        labels=split.labels[chosen],
        masks=None if split.masks is None else split.masks[chosen],
        encoded=None if split.encoded is None else _Chosen(split.encoded, chosen),
        bad={place[index]: error for index, error in split.bad.items() if index in place},
    )
