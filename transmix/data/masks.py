"""Foreground masks: where data sets store them, and how to crop and augment them like the images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transmix.data.augment import TrainingAugmentation
from transmix.data.dataset import DataError, ImageData, listing
from transmix.data.encoded import EncodedImages, ImageFiles
from transmix.data.formats import FORMATS
from transmix.data.packed import PackedFiles
from transmix.data.settings import Augmentation
from transmix.data.tables import ArrowFiles, ParquetRows
from transmix.error import one_line

BACKGROUND, FOREGROUND, UNSURE = 0, 1, 2
"""What a pixel of a mask is; unsure pixels lie on the outline, and scores leave them out."""

TRIMAP = {1: FOREGROUND, 2: BACKGROUND, 3: UNSURE}
"""The values of an Oxford-IIIT Pet trimap."""

COLUMN = "mask"
"""The column of Parquet files that holds encoded masks."""


class NoMasksError(DataError):
    """A data set without foreground masks."""


Masks = Callable[[int], np.ndarray]
"""Position of an image in a split -> its mask (H, W) uint8, in the image's own size."""


def open_masks(data: ImageData, of: Literal["train", "val"] = "val") -> Masks:
    """Find the foreground masks of the images of a data set's split.

    They come with the built-in digits; with Parquet files that have a column `mask` of encoded images; with what
    `transmix pack` makes of such data sets; and with Oxford-IIIT Pet where `annotations/trimaps` is unpacked. Encoded
    masks are trimaps (1 foreground, 2 background, 3 not classified), or 0 for background and 1 or 255 for foreground.

    Args:
        data: from `open_data`, or from `load_data`.
        of: the split.

    Returns:
        A function from an index of the split to a mask; it raises a DataError for an unreadable mask, other values, or
        another size than the image.

    Raises:
        NoMasksError: The data set has no masks.
        DataError: Some files of it have none, or the column cannot be read.
    """
    split = data.train if of == "train" else data.val
    images: Any = split.images if split.encoded is None else split.encoded
    masks = split.masks
    if masks is not None:
        return lambda index: np.asarray(masks[index], dtype=np.uint8)
    match images.files if isinstance(images, EncodedImages) else None:
        case ArrowFiles(files=(path, *_) as paths) | ParquetRows(files=(path, *_) as paths) if path.endswith(
            ".parquet"
        ):
            encoded = _column(paths)
            stored = lambda index: (encoded[int(images.rows[index])].as_py(), f"{COLUMN} of {images.where(index)}")  # noqa: E731
        case PackedFiles(masks=packed) if packed is not None:
            stored = lambda index: (packed[int(images.rows[index])].as_py(), f"{COLUMN} of {images.where(index)}")  # noqa: E731
        case ImageFiles(folder=folder) if (trimaps := folder.parent / "annotations" / "trimaps").is_dir():
            stored = lambda index: _content(trimaps / f"{Path(images.where(index)).stem}.png")  # noqa: E731
        case _:
            raise NoMasksError(
                f"{data.name}: no foreground masks. They come with 'digits', with Parquet files that have a column "
                f"{COLUMN!r}, and with Oxford-IIIT Pet where annotations/trimaps is unpacked"
            )
    return lambda index: _decode(*stored(index), images.size(index))


def crop_mask(mask: np.ndarray, crop: Callable[[np.ndarray], Tensor]) -> Tensor:
    """Crop a mask like its image.

    The three mask values become three channels of an image, which goes through the image's own crop; then each pixel
    gets the value with the largest channel. So mask and image have the same geometry for any crop. Without resizing,
    values do not change.

    Args:
        mask: (H, W) uint8, from `open_masks`.
        crop: (H, W, 3) uint8 array -> (3, H', W') uint8 tensor.

    Returns:
        (H', W') uint8.
    """
    covers = np.stack([mask == value for value in (BACKGROUND, FOREGROUND, UNSURE)], axis=-1)
    return crop(covers.astype(np.uint8) * 255).argmax(dim=0).to(torch.uint8)


def open_foregrounds(data: ImageData, crop: Callable[[np.ndarray], Tensor]) -> Callable[[int], Tensor]:
    """Return a function from an index of the validation split to where the object is, (H', W') bool.

    Args:
        data: As for `open_masks`; errors too.
        crop: As for `crop_mask`.
    """
    masks = open_masks(data)
    return lambda index: crop_mask(masks(index), crop) == FOREGROUND


def drawn(mask: np.ndarray) -> np.ndarray:
    """Draw a mask's foreground white on black, (H, W, 3) uint8: the form that `TrainingAugmentation` moves."""
    return np.repeat((mask == FOREGROUND)[..., None] * np.uint8(255), 3, axis=2)


def augmented_masks(masks: Masks | None, settings: Augmentation, size: int) -> Callable[[int, int], Tensor] | None:
    """Return a function from an image's index and a sample's key to its foreground (size, size) bool.

    It is moved as `TrainingAugmentation` moves the image of that key. None without masks.
    """
    if masks is None:
        return None
    augment = TrainingAugmentation(settings, size, of_masks=True)
    return lambda index, key: is_white(augment(drawn(masks(index)), key))


def is_white(pixels: Tensor) -> Tensor:
    """Return where a drawn mask (..., 3, S, S) uint8 shows the foreground after it was resized, (..., S, S) bool."""
    return pixels.select(-3, 0) >= 128


def _column(files: tuple[str, ...]) -> Any:
    """Read the encoded masks of Parquet files into one ChunkedArray."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunks = []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                if COLUMN not in file.schema_arrow.names:
                    columns = listing(file.schema_arrow.names)
                    kind = DataError if chunks else NoMasksError
                    raise kind(f"{path}: no foreground masks: no column {COLUMN!r} among {columns}")
                table = file.read([COLUMN]).flatten()
                name = COLUMN if COLUMN in table.column_names else f"{COLUMN}.bytes"
                chunks += table[name].cast(pa.large_binary()).chunks
        except (pa.ArrowException, KeyError, OSError) as error:
            what = f"the column {COLUMN!r} must be binary or a struct with a field bytes"
            raise DataError(f"{path}: {what} ({one_line(error)})") from error
    return pa.chunked_array(chunks, pa.large_binary())


def _content(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read the mask ({error.strerror}); unpack annotations.tar.gz again") from error


def _decode(encoded: bytes | None, where: str, size: tuple[int, int]) -> np.ndarray:
    """Decode a mask for an image of size (height, width)."""
    if encoded is None:
        raise DataError(f"{where}: the mask is null; fill it in or drop the row")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            stored = np.asarray(image)
            stored = stored.astype(np.uint8) if stored.dtype == bool else stored  # 1-bit PNG
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise DataError(f"{where}: cannot read the mask ({one_line(error)}); replace it") from error
    values = set(np.unique(stored).tolist())
    shape = " x ".join(map(str, stored.shape))
    if stored.ndim != 2 or not any(values <= known for known in (TRIMAP.keys(), {0, 1}, {0, 255})):
        found = f"a mask of {shape} with values {listing(map(str, sorted(values)), 5)}"
        trimap = "a trimap (1 foreground, 2 background, 3 not classified)"
        raise DataError(f"{where}: {found}; expected one channel of {trimap}, or of 0 and 1, or of 0 and 255")
    if stored.shape != size:
        of_image = " x ".join(map(str, size))
        raise DataError(f"{where}: the mask is {shape} pixels, its image {of_image}; both must show the same")
    if values <= TRIMAP.keys():
        return np.array([BACKGROUND, *TRIMAP.values()], dtype=np.uint8)[stored]
    return (stored > 0).astype(np.uint8)
