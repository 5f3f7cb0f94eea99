"""Parquet files as on the Hugging Face hub: encoded images, integer labels, class names in the schema."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.dataset import (
    VALIDATION_NAMES,
    DataError,
    ImageData,
    Split,
    class_difference,
    listing,
    require_every_class,
)
from transmix.data.decode import decode_image, image_size
from transmix.data.grey import Grey

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """Encoded images kept in memory and decoded when indexed.

    Attributes:
        encoded: A pyarrow ChunkedArray of N binary values.
        files: The files they come from, in order.
        first_rows: (len(files),) the index of each file's first image.
        grey: how greyscale of more than 8 bits is scaled.
    """

    encoded: Any
    files: tuple[str, ...]
    first_rows: np.ndarray
    grey: Grey = None

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode_image(self.content(index), where=self.where(index), grey=self.grey)

    def size(self, index: int) -> tuple[int, int]:
        """Read the (height, width) of an image from its header."""
        return image_size(self.content(index), where=self.where(index))

    def content(self, index: int) -> bytes:
        """Give an image as it is stored."""
        return self.encoded[int(index)].as_py()

    def where(self, index: int) -> str:
        """Name the file and row of an image; rows are counted from 0 within each file."""
        index = int(index) % len(self)
        file = int(np.searchsorted(self.first_rows, index, side="right")) - 1
        return f"{self.files[file]} row {index - self.first_rows[file]}"


@dataclass(frozen=True)
class _Shard:
    """One file's content: images (a ChunkedArray of binary), labels (N,) int64, names or None if unknown."""

    path: Path
    images: Any
    labels: np.ndarray
    names: tuple[str, ...] | None


def holds_parquet(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder, or `data` inside it, has Parquet files named after the training split."""
    return bool(_files_of(Path(root), "train"))


def read_parquet(root: str | os.PathLike[str]) -> ImageData:
    """Read a data set kept as Parquet files, such as `train-00000-of-00002.parquet`.

    The training split is every `train-*.parquet` (or `train.parquet`) in the folder or in `data` inside it;
    the other split is called `val`, `validation` or `test`, the first of these that is there. The images are
    in a column `image` or `img`, as a struct with a field `bytes` or as plain binary. The labels are the one
    column that the schema calls a ClassLabel (of several: `label`, else `fine_label`), with its names; in
    files without that metadata, an integer column of these names, with the classes called '0', '1', ...

    The encoded bytes of all images are held in memory; they are decoded when indexed.

    Args:
        root: The folder with the files.

    Raises:
        DataError: If files or columns are missing, the splits name different classes, a label or an image is
            null, a label has no name, or a class has no image. The message names the file and row.
    """
    root = Path(root)
    train_files = _files_of(root, "train")
    if not train_files:
        raise DataError(f"{root}: no files train-*.parquet here or in {root / 'data'}")
    val_files = next((files for name in VALIDATION_NAMES if (files := _files_of(root, name))), None)
    if val_files is None:
        raise DataError(f"{root}: no files {' or '.join(f'{name}-*.parquet' for name in VALIDATION_NAMES)}")

    train, val = ([_read_shard(path) for path in files] for files in (train_files, val_files))
    classes = _common_names([*train, *val])
    if classes is None:
        labels = np.concatenate([shard.labels for shard in train])
        # no more classes than images, or one absurd label would ask for as many names
        classes = tuple(str(number) for number in range(min(int(labels.max()) + 1, len(labels))))
    return ImageData(root.resolve().name, classes, _split(train, classes), _split(val, classes))


def _files_of(root: Path, split: str) -> list[Path]:
    """List the files of a split, and check that none of a numbered series is missing."""
    for folder in (root, root / "data"):
        files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")])
        series = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
        if series and series != {len(files)}:
            raise DataError(
                f"{folder}: {len(files)} files of {split}, but their names say there are "
                f"{' and '.join(map(str, sorted(series)))}; complete the download or remove what is left over"
            )
        if files:
            return files
    return []


def _read_shard(path: Path) -> _Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            image_column = _image_column(file.schema_arrow, path)
            label_column, names = _label_column(file.schema_arrow, path)
            table = file.read([image_column, label_column]).flatten()
        images, labels = table[image_column].cast(pa.large_binary()), table[label_column]
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable Parquet file ({reason}); fetch it again") from error

    if table.num_rows == 0:
        raise DataError(f"{path}: no rows; remove the file or fetch it again")
    for what, column in (("image", images), ("label", labels)):
        _require_no_row(path, np.asarray(column.is_null()), f"the {what} is null; fill it in or drop the row")
    return _Shard(path, images, labels.to_numpy().astype(np.int64), names)


def _require_no_row(path: Path, wrong: np.ndarray, message: str) -> None:
    """Raise a DataError for the first row of a file that is wrong, given (N,) bool."""
    if wrong.any():
        raise DataError(f"{path} row {int(np.argmax(wrong))}: {message}")


def _image_column(schema: Any, path: Path) -> str:
    """Find the column of encoded images, `image.bytes` for a struct {bytes, path} called `image`."""
    import pyarrow as pa

    name = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if name is None:
        raise DataError(f"{path}: no column {' or '.join(IMAGE_COLUMNS)} among {listing(schema.names)}")
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return name
    raise DataError(f"{path}: column {name} is {kind}; it must be binary or a struct with a field bytes")


def _label_column(schema: Any, path: Path) -> tuple[str, tuple[str, ...] | None]:
    """Find the column of labels and its class names, None if the schema does not tell."""
    import pyarrow as pa

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    named = {
        column: tuple(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }
    choices = list(named or schema.names)
    candidates = list(named) if len(named) == 1 else [name for name in LABEL_COLUMNS if name in choices]
    if not candidates:
        raise DataError(
            f"{path}: which of {listing(choices)} are the labels? Call that column {' or '.join(LABEL_COLUMNS)}"
        )
    column = candidates[0]
    if column not in schema.names or not pa.types.is_integer(schema.field(column).type):
        raise DataError(f"{path}: labels are expected in a column {column} of integers")
    return column, named.get(column)


def _common_names(shards: list[_Shard]) -> tuple[str, ...] | None:
    """Give the class names that all files agree on, None if no file has any."""
    first = shards[0]
    for shard in shards[1:]:
        if shard.names != first.names:
            difference = class_difference(first.names or (), shard.names or ())
            raise DataError(
                f"{shard.path}: class names differ from those of {first.path.name} "
                f"({difference or 'the order is another'}); write all files with one list of names"
            )
    return first.names


def _split(shards: list[_Shard], classes: tuple[str, ...]) -> Split:
    import pyarrow as pa

    for shard in shards:
        wrong = (shard.labels < 0) | (shard.labels >= len(classes))
        label = shard.labels[int(np.argmax(wrong))]
        _require_no_row(shard.path, wrong, f"label {label} is not among the {len(classes)} classes")
    labels = np.concatenate([shard.labels for shard in shards])
    require_every_class(labels, classes, str(shards[0].path))
    first_rows = np.cumsum([0, *(len(shard.labels) for shard in shards[:-1])])
    encoded = pa.chunked_array([chunk for shard in shards for chunk in shard.images.chunks])
    return Split(ParquetImages(encoded, tuple(str(shard.path) for shard in shards), first_rows), labels)
