"""What every data set is here: images, labels and class names, and the error for data that is not usable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

VALIDATION_NAMES = ("val", "validation", "test")
"""What the held-out part of a data set may be called on disk; the first that is present is used."""


class DataError(Exception):
    """A problem with the user's data; the message says what was wrong, where, and what to do."""


class Images(Protocol):
    """A sequence of images: `images[i]` is an (H, W, 3) uint8 array.

    Arrays and lists hold decoded images. Any other sequence decodes when it is indexed, and also offers
    `size(i) -> (height, width)`, which looks at the header alone.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, for example the training images.

    Attributes:
        images: N images; `images[i]` is an (H, W, 3) uint8 array.
        labels: (N,) int64, positions in the class list.
        masks: (N, H, W) bool, true on the foreground; None where the data set has no masks.
    """

    images: Images
    labels: np.ndarray
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.images, self.labels, self.masks) if part is not None}
        if len(lengths) > 1:
            raise ValueError(f"images, labels and masks must be equally many, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set to train on: a name, its classes, and the two splits that are labelled with them.

    Raises:
        DataError: If two classes have the same name, because splits are matched by name.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split

    @property
    def in_memory(self) -> bool:
        """Whether the training images are decoded already."""
        return isinstance(self.train.images, (np.ndarray, list))

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise DataError(f"{self.name}: class names appear twice: {listing(repeated)}; rename one of each")


def listing(names: Iterable[str], limit: int = 10) -> str:
    """Write names as one readable line, cut after `limit` of them: `'cat, dog and 98 more'`."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Say how two class lists differ by name: `'missing: cat; unexpected: dog'`, empty if they do not."""
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    parts = (("missing", missing), ("unexpected", unexpected))
    return "; ".join(f"{word}: {listing(names)}" for word, names in parts if names)


def require_every_class(labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    """Check that each class has at least one image.

    Args:
        labels: (N,) integers in [0, len(classes)).
        classes: The class names.
        where: What the labels belong to, for the message.

    Raises:
        DataError: If a class has no image; the message lists all such classes.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if absent:
        raise DataError(f"{where}: no image of class {listing(absent)}; add some or drop the class everywhere")


def keep_decoded(split: Split, limit_bytes: int) -> Split:
    """Decode all images once and keep them in memory, if they are expected to fit.

    The decoded size is estimated from the headers of up to 256 evenly spaced images, so nothing is decoded
    to find out that a data set is too large.

    Args:
        split: Any split; one whose images are an array or a list is already decoded and returned as it is.
        limit_bytes: The most that the decoded pixels may take.

    Returns:
        A split whose images are one (N, H, W, 3) array if all have the same size and a list of (H, W, 3)
        arrays otherwise; or the split unchanged if it would not fit.

    Raises:
        DataError: If an image cannot be read.
    """
    if isinstance(split.images, (np.ndarray, list)) or len(split) == 0:
        return split
    lazy: Any = split.images
    sampled = np.unique(np.linspace(0, len(split) - 1, min(len(split), 256)).astype(int))
    sizes = [lazy.size(int(index)) for index in sampled]
    expected_bytes = 3 * len(split) * float(np.mean([height * width for height, width in sizes]))
    if expected_bytes > limit_bytes:
        return split
    return replace(split, images=_decode_all(lazy, expect_one_size=len(set(sizes)) == 1))


def _decode_all(images: Images, expect_one_size: bool) -> np.ndarray | list[np.ndarray]:
    """Decode every image, straight into one array if they are expected to be of one size."""
    if not expect_one_size:
        return [images[index] for index in range(len(images))]
    together = np.empty((len(images), *images[0].shape), dtype=np.uint8)
    for index in range(len(images)):
        image = images[index]
        if image.shape != together.shape[1:]:  # the headers looked at were not all there are
            return [*together[:index], image, *(images[later] for later in range(index + 1, len(images)))]
        together[index] = image
    return together
