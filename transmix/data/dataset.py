"""What every data set is here: images, labels and class names, and the error for data that is not usable."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from transmix.data.grey import Grey
from transmix.error import TransMixError
from transmix.printable import printable as printable


class DataError(TransMixError):
    """A problem with the user's data; the message says what was wrong, where, and what to do."""


class UnreadableImageError(DataError):
    """An image that cannot be read, today or tomorrow; a run may be told to do without it.

    Attributes:
        where: the file, or the file and row.
        reason: what the decoder says.
    """

    def __init__(self, where: str, reason: str = ""):
        # with one argument it is the message itself: so exceptions are unpickled, and raised again from workers
        super().__init__(f"{where}: cannot read the image ({reason}); replace or remove it" if reason else where)
        self.where, self.reason = where, reason


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
        bad: index -> what was wrong, of images that could not be decoded and are blank in `images`. `image` raises it.
        encoded: the images as they lie on disk, where `images` holds them decoded; it can name them.
    """

    images: Images
    labels: np.ndarray
    masks: np.ndarray | None = None
    bad: Mapping[int, UnreadableImageError] = field(default_factory=dict)
    encoded: Images | None = None

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.images, self.labels, self.masks) if part is not None}
        if len(lengths) > 1:
            raise ValueError(f"images, labels and masks must be equally many, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, index: int) -> str:
        """Name an image by its file, or its file and row; by its number where nothing names it."""
        name = getattr(self.encoded if self.encoded is not None else self.images, "where", None)
        return name(index) if name else f"number {index}"

    def image(self, index: int) -> np.ndarray:
        """Give an image, (H, W, 3) uint8.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        if index in self.bad:
            raise UnreadableImageError(self.bad[index].where, self.bad[index].reason)
        return self.images[index]


@dataclass(frozen=True)
class Parts:
    """Where the two splits of a data set come from.

    Attributes:
        held_out: What the part that is held out is called on disk.
        unused: Parts that could be held out in its place.
        columns: Of Parquet files, those of the images and of the labels.
        val_fraction: Which fraction of the training images is held out; None: another part is.
    """

    held_out: str = "val"
    unused: tuple[str, ...] = ()
    columns: tuple[str, str] | None = None
    val_fraction: float | None = None


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set to train on: a name, its classes, and the two splits that are labelled with them.

    Attributes:
        name: The name.
        classes: The class list, which labels are positions in.
        train: Images to train on.
        val: Images that are held out.
        notes: What whoever uses the data has to know, a line each.
        grey: How greyscale of more than 8 bits is scaled in both splits; None: there is none, or it is not known.
        parts: Where the splits come from.

    Raises:
        DataError: If two classes have the same name, because splits are matched by name.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    notes: tuple[str, ...] = ()
    grey: Grey = None
    parts: Parts = Parts()

    @property
    def in_memory(self) -> bool:
        """Whether the training images are decoded already."""
        return isinstance(self.train.images, (np.ndarray, list))

    def __post_init__(self) -> None:
        if repeated := sorted({name for name in self.classes if self.classes.count(name) > 1}):
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


def classes_without(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the names of the classes that no label (N,) is a position of."""
    counts = np.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if count == 0]


def require_every_class(labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    """Check that each class has at least one image.

    Args:
        labels: (N,) integers in [0, len(classes)).
        classes: The class names.
        where: What the labels belong to, for the message.

    Raises:
        DataError: If a class has no image; the message lists all such classes.
    """
    if absent := classes_without(labels, classes):
        raise DataError(f"{where}: no image of class {listing(absent)}; add some or drop the class everywhere")


def keep_decoded(split: Split, limit_bytes: int, max_bad: int = 0) -> Split:
    """Decode all images once and keep them in memory, if they are expected to fit.

    The decoded size is estimated from the headers of up to 256 evenly spaced images, so nothing is decoded
    to find out that a data set is too large.

    Args:
        split: Any split; one whose images are an array or a list is already decoded and returned as it is.
        limit_bytes: The most that the decoded pixels may take.
        max_bad: How many images may be unreadable; they come out blank, and are named in the split's `bad`.

    Returns:
        A split whose images are one (N, H, W, 3) array if all have the same size and a list of (H, W, 3)
        arrays otherwise; or the split unchanged if it would not fit.

    Raises:
        DataError: If more than `max_bad` images cannot be read.
    """
    if isinstance(split.images, (np.ndarray, list)) or len(split) == 0:
        return split
    sampled = np.unique(np.linspace(0, len(split) - 1, min(len(split), 256)).astype(int))
    sizes = [size for index in sampled if (size := size_of(split.images, int(index), required=not max_bad))]
    expected_bytes = 3 * len(split) * float(np.mean([height * width for height, width in sizes or [(1, 1)]]))
    if expected_bytes > limit_bytes:
        return split
    images, bad = _decode_all(split.images, sizes[0] if len(set(sizes)) == 1 else None, max_bad)
    return replace(split, images=images, bad=bad, encoded=split.images)


def size_of(images: Any, index: int, required: bool = False) -> tuple[int, int] | None:
    """Read the (height, width) of an image that is no part of an array; None if it cannot be read and need not be."""
    if isinstance(images, list):
        return images[index].shape[:2]
    try:
        return images.size(index)
    except UnreadableImageError:
        if required:
            raise
        return None


def _decode_all(
    images: Images, expected_size: tuple[int, int] | None, max_bad: int
) -> tuple[np.ndarray | list[np.ndarray], dict[int, UnreadableImageError]]:
    """Decode every image, straight into one array if they are expected to be of one size."""
    bad: dict[int, UnreadableImageError] = {}

    def decode(index: int, size: tuple[int, int]) -> np.ndarray:
        try:
            return images[index]
        except UnreadableImageError as error:
            if max_bad == 0:
                raise
            bad[index] = UnreadableImageError(error.where, error.reason)  # without the frames that hold the file
            if len(bad) > max_bad:
                raise too_many(max_bad, (unreadable.where for unreadable in bad.values())) from error
            return np.zeros((*size, 3), dtype=np.uint8)

    if expected_size is None:
        return [decode(index, (1, 1)) for index in range(len(images))], bad
    together = np.empty((len(images), *expected_size, 3), dtype=np.uint8)
    for index in range(len(images)):
        image = decode(index, expected_size)
        if image.shape != together.shape[1:]:  # the headers looked at were not all there are
            rest = (decode(later, expected_size) for later in range(index + 1, len(images)))
            return [*together[:index], image, *rest], bad
        together[index] = image
    return together, bad


def too_many(max_bad: int, places: Iterable[str]) -> DataError:
    """Say that more images are bad than a run is to do without."""
    return DataError(
        f"more than max_bad_images {max_bad} images cannot be read: {listing(map(printable, places), 3)}; "
        f"repair or remove them (transmix doctor lists all), or allow more"
    )
