"""Types for data sets: images, labels and class names, and the error for unusable data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from transmix.data.boxes import Box
from transmix.data.grey import Grey
from transmix.error import TransMixError
from transmix.printable import printable as printable


class DataError(TransMixError):
    """A problem with the user's data; the message says what was wrong, where, and what to do."""


class UnreadableImageError(DataError):
    """An image that is permanently unreadable; a run may skip it.

    Attributes:
        where: the file, or file and row.
        reason: message of the decoder.
    """

    def __init__(self, where: str, reason: str = ""):
        # with one argument it is the message itself: so exceptions are unpickled, and raised again from workers
        super().__init__(f"{where}: cannot read the image ({reason}); replace or remove it" if reason else where)
        self.where, self.reason = where, reason


class Images(Protocol):
    """A sequence of images: `images[i]` is an (H, W, 3) uint8 array.

    Arrays and lists hold decoded images. Any other sequence decodes on indexing, and has `size(i) -> (height, width)`,
    which reads only the header.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, for example the training images.

    Attributes:
        images: N images; `images[i]` is an (H, W, 3) uint8 array.
        labels: (N,) int64, indices into the class list.
        masks: (N, H, W) bool, true on the foreground; None without masks.
        bad: index -> error of an image that could not be decoded and is blank in `images`. `image` raises it.
        encoded: the encoded images on disk, if `images` holds decoded ones; used to name them.
    """

    images: Images
    labels: np.ndarray
    masks: np.ndarray | None = None
    bad: Mapping[int, UnreadableImageError] = field(default_factory=dict)
    encoded: Images | None = None

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.images, self.labels, self.masks) if part is not None}
        if len(lengths) > 1:
            raise ValueError(f"images, labels and masks must have the same length, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, index: int) -> str:
        """Return the name of an image: its file, or file and row, else its number."""
        name = getattr(self.encoded if self.encoded is not None else self.images, "where", None)
        return name(index) if name else f"number {index}"

    def image(self, index: int) -> np.ndarray:
        """Return an image, (H, W, 3) uint8.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        self._check(index)
        return self.images[index]

    def part(self, index: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """Return the part of an image that is needed, (h, w, 3) uint8; a JPEG may be decoded at a reduced size.

        Args:
            index: of the image.
            choose: height and width of the image -> the part of it.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        self._check(index)
        part = getattr(self.images, "part", None)
        if part is not None:
            return part(index, choose)
        image = self.images[index]
        box = choose(*image.shape[:2])
        encoded: Any = self.encoded  # what a library reads as arrays has no files to look into
        if box.reduce > 1 and hasattr(encoded, "is_jpeg") and encoded.is_jpeg(index):
            return encoded.part(index, lambda *_: box)  # the same pixels as without the memory
        return box.cut(image)

    def _check(self, index: int) -> None:
        if index in self.bad:
            raise UnreadableImageError(self.bad[index].where, self.bad[index].reason)


@dataclass(frozen=True)
class Parts:
    """Where the two splits of a data set come from.

    Attributes:
        held_out: Name on disk of the held-out part.
        unused: Other parts that could be held out instead.
        others: All other parts whose names say val or test.
        columns: Image column and label column of Parquet files and label lists.
        val_fraction: Fraction of the training images that is held out; None: a separate part is.
        layout: How the files are arranged, in words.
    """

    held_out: str = "val"
    unused: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    columns: tuple[str, str] | None = None
    val_fraction: float | None = None
    layout: str = ""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set to train on: name, classes, training and validation split.

    Attributes:
        name: The name.
        classes: Class list; labels are indices into it.
        train: Images to train on.
        val: Images that are held out.
        notes: Notes for the user, one line each.
        grey: How greyscale of more than 8 bits is scaled in both splits; None: there is none, or it is not known.
        parts: Where the splits come from.

    Raises:
        DataError: Two classes have the same name.
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
    """Write names as one readable line, shortened after `limit` names: `'cat, dog and 98 more'`."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Describe the difference of two class lists: `'missing: cat; unexpected: dog'`, empty if they are equal."""
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    parts = (("missing", missing), ("unexpected", unexpected))
    return "; ".join(f"{word}: {listing(names)}" for word, names in parts if names)


def classes_without(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the names of the classes without a label."""
    counts = np.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if count == 0]


def require_every_class(labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    """Check that each class has at least one image.

    Args:
        labels: (N,) integers in [0, len(classes)).
        classes: The class names.
        where: Name of the data, for the message.

    Raises:
        DataError: If a class has no image; the message lists all such classes.
    """
    if absent := classes_without(labels, classes):
        raise DataError(f"{where}: no image of class {listing(absent)}; add some or drop the class everywhere")


def keep_decoded(split: Split, limit_bytes: int, max_bad: int = 0) -> Split:
    """Decode all images once and keep them in memory, if they probably fit.

    The decoded size is estimated from the headers of up to 256 evenly spaced images, so a data set that is too large is
    never decoded.

    Args:
        split: Any split; one whose images are an array or a list is already decoded and is returned unchanged.
        limit_bytes: Memory limit of the decoded pixels in bytes.
        max_bad: Maximum number of unreadable images; they become blank and are listed in the split's `bad`.

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
    """Read the (height, width) of an image; None if it cannot be read and is not required."""
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
    """Decode every image, directly into one array if all probably have the same size."""
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
    """Return the error for more bad images than a run may skip."""
    return DataError(
        f"more than max_bad_images {max_bad} images cannot be read: {listing(map(printable, places), 3)}; "
        f"repair or remove them (transmix doctor lists all), or allow more"
    )
