"""Subsets of a split: a smaller training set, or a fraction of each class to hold out."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from transmix.data.dataset import DataError, ImageData, Images, Parts, Split
from transmix.data.encoded import EncodedImages, ImageFiles
from transmix.data.packed import PackedFiles
from transmix.data.seeding import derive_seed


class _Chosen:
    """A subset of another image sequence, by index."""

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


def take(split: Split, positions: np.ndarray) -> Split:
    """Return the images of a split at the given indices, (n,) int64, in that order."""
    place = {int(index): new for new, index in enumerate(positions)}
    return replace(
        split,
        images=_take(split.images, positions),
        labels=split.labels[positions],
        masks=None if split.masks is None else split.masks[positions],
        encoded=None if split.encoded is None else _take(split.encoded, positions),
        bad={place[index]: error for index, error in split.bad.items() if index in place},
    )


def _take(images: Images, positions: np.ndarray) -> Images:
    match images:
        case np.ndarray():
            return images[positions]
        case list():
            return [images[index] for index in positions]
        case EncodedImages():
            return images.take(positions)
    return _Chosen(images, positions)


def hold_out(data: ImageData, fraction: float) -> ImageData:
    """Hold out a fraction of each class of the training images; another held-out part is not used.

    The choice depends only on the labels and their order, not on a seed or the machine. For a class with two or more
    images, at least one is held out and at least one is kept for training.

    Args:
        data: images and labels to train on.
        fraction: between 0 and 1, of each class.
    """
    held_out = np.zeros(len(data.train), dtype=bool)
    for label, count in enumerate(np.bincount(data.train.labels, minlength=len(data.classes))):
        shuffled = np.random.default_rng(derive_seed("val_fraction", label)).permutation(int(count))
        some = min(max(round(fraction * count), 1), count - 1)
        held_out[np.flatnonzero(data.train.labels == label)[shuffled[: max(some, 0)]]] = True
    train, val = (take(data.train, np.flatnonzero(which)) for which in (~held_out, held_out))
    parts = Parts(f"{fraction:g} of train", (), data.parts.others, data.parts.columns, fraction, data.parts.layout)
    return replace(data, train=train, val=val, parts=parts)


def fingerprint(split: Split, classes: Sequence[str]) -> str:
    """Return a text that differs where a split has other images or labels: 32 hexadecimal digits.

    Images in files are told apart by their paths below the part's folder, others by their position; packed ones as in
    the data set that was packed.
    """
    digest = hashlib.blake2b("\n".join(classes).encode("utf-8", "surrogateescape"), digest_size=16)
    digest.update(np.ascontiguousarray(split.labels).data)
    images = split.encoded if split.encoded is not None else split.images
    if isinstance(images, EncodedImages):
        match images.files:
            case ImageFiles(paths=paths):
                names = paths[images.rows].tolist()
            case PackedFiles() as packed:
                names = packed.names(images.rows)
            case _:
                names = images.rows.tolist()
        if names is not None:
            digest.update(repr(names).encode())
    return digest.hexdigest()


def choose(split: Split, count: int) -> Split:
    """Take a class-balanced subset of N images of a split.

    The subset does not depend on the seed. A smaller subset is part of a larger one. The order of images stays.

    Raises:
        DataError: The split has fewer than N images, or N is less than the number of classes.
    """
    classes = len(np.unique(split.labels))
    if count > len(split):
        raise DataError(f"train_images {count} is more than the {len(split)} training images available")
    if count < classes:
        raise DataError(f"train_images {count} is less than one image for each of {classes} classes")
    shuffled = np.random.default_rng(derive_seed("train_images")).permutation(len(split))
    turn = np.empty(len(split), dtype=np.int64)  # which of its class an image is, as shuffled
    for label in np.unique(split.labels):
        of_class = shuffled[split.labels[shuffled] == label]
        turn[of_class] = np.arange(len(of_class))
    chosen = np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:count])
    return take(split, chosen)
