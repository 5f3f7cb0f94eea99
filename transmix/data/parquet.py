"""Parquet files as on the Hugging Face hub: encoded images, integer labels, class names in the schema."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.class_names import class_name, class_names
from transmix.data.dataset import (
    DataError,
    ImageData,
    Parts,
    Split,
    class_difference,
    listing,
    printable,
    require_every_class,
)
from transmix.data.decode import decode_image, image_size
from transmix.data.grey import Grey
from transmix.data.parts import TRAIN, USUAL, Choice, choose_part, unused_parts

IMAGE_COLUMNS = ("image", "img")
"""What the column of images may be called; the first that is there is taken."""

LABEL_COLUMNS = ("label", "labels", "fine_label")
"""What the column of labels may be called; the first that is there is taken."""


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


@dataclass(frozen=True, eq=False)
class _Shard:
    """One file's content.

    Attributes:
        path: of the file.
        images: N binary values, a pyarrow ChunkedArray.
        labels: (N,) int64, positions in the names.
        names: of the classes; None where labels are numbers without names.
        in_schema: whether the schema lists the names, not the labels themselves.
    """

    path: Path
    images: Any
    labels: np.ndarray
    names: tuple[str, ...] | None
    in_schema: bool


def holds_parquet(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder, or `data` inside it, has Parquet files named after the training split."""
    return any(name.lower() in TRAIN for name in _parts(Path(root)))


def read_parquet(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Read a data set kept as Parquet files, such as `train-00000-of-00002.parquet`.

    The training split is every `train-*.parquet` (or `train.parquet`) in the folder or in `data` inside it;
    the other split is called `val`, `valid`, `validation`, ... or `test`, the first of these that is there. The images
    are in a column `image` or `img`, else in the only one that the schema calls an Image, as a struct with a field
    `bytes` or as plain binary. The labels are in a column `label`, `labels` or `fine_label`, else in the only one that
    the schema calls a ClassLabel; they are numbers (with the schema's class names, else called '0', '1', ...), class
    names, or true and false. The held-out part is matched to the classes of training by name, and may lack some.

    The encoded bytes of all images are held in memory; they are decoded when indexed.

    Args:
        root: The folder with the files.
        choice: Which part to hold out, and which columns to take.

    Raises:
        DataError: If files or columns are missing, a label or an image is null, a label has no name or is no class of
            training, or a class has no training image. The message names the file and row.
    """
    root = Path(root)
    present = _parts(root)
    train_name, held_out = choose_part(present, TRAIN, root), choose_part(present, choice.held_out, root)
    if train_name is None:
        raise DataError(f"{root}: no files train-*.parquet here or in {root / 'data'}")
    if held_out is None:
        raise DataError(f"{root}: no files {' or '.join(f'{name}-*.parquet' for name in choice.held_out)}")
    columns = _columns(present[train_name][0], choice)
    train, val = (
        [_read_shard(path, columns) for path in _whole(present[name], name)] for name in (train_name, held_out)
    )
    classes = _classes(train, val)
    of_train, of_val = _split(train, classes), _split(val, classes)
    require_every_class(of_train.labels, classes, str(train[0].path))
    parts = Parts(held_out, unused_parts(present, held_out), columns)
    return ImageData(root.resolve().name, classes, of_train, of_val, parts=parts)


def _parts(root: Path) -> dict[str, list[Path]]:
    """List the files of each part: its name -> files, those in the folder before those in `data`."""
    found: dict[str, list[Path]] = {}
    for folder in (root / "data", root):
        here: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*.parquet")):
            here.setdefault(re.split(r"-|\.parquet$", path.name, maxsplit=1)[0], []).append(path)
        found |= here
    return found


def _whole(files: list[Path], split: str) -> list[Path]:
    """Check that none of a numbered series is missing."""
    series = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if series and series != {len(files)}:
        raise DataError(
            f"{files[0].parent}: {len(files)} files of {split}, but their names say there are "
            f"{' and '.join(map(str, sorted(series)))}; complete the download or remove what is left over"
        )
    return files


def _columns(path: Path, choice: Choice) -> tuple[str, str]:
    """Choose the columns of the images and of the labels by the first training file."""
    with _opened(path) as file:
        schema = file.schema_arrow
        images = [name for name, kind in _features(schema).items() if kind.get("_type") == "Image"]
        labels = list(_listed_names(schema, path))
    return (
        _column(schema.names, choice.image_column, IMAGE_COLUMNS, images, f"{path}: which of * are the images?"),
        _column(schema.names, choice.label_column, LABEL_COLUMNS, labels, f"{path}: which of * are the labels?"),
    )


def _column(names: list[str], asked: str | None, usual: tuple[str, ...], typed: list[str], question: str) -> str:
    what = "image" if usual is IMAGE_COLUMNS else "label"
    if asked is not None:
        return asked
    found = next((name for name in usual if name in names), typed[0] if len(typed) == 1 else None)
    if found is None:
        question = question.replace("*", listing(map(printable, typed or names)))
        raise DataError(f"{question} Name the column: --{what}-column NAME")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; what pyarrow says against it becomes one line."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable Parquet file ({reason}); fetch it again") from error


def _read_shard(path: Path, columns: tuple[str, str]) -> _Shard:
    import pyarrow as pa

    image_column, label_column = columns
    with _opened(path) as file:
        schema = file.schema_arrow
        for what, column in zip(("image", "label"), columns, strict=True):
            if column not in schema.names:
                raise DataError(
                    f"{path}: no column {printable(column)} among {listing(map(printable, schema.names))}; every file "
                    f"needs it, or name another: --{what}-column NAME"
                )
        bytes_column = _bytes_column(schema, image_column, path)
        listed = _listed_names(schema, path).get(label_column)
        table = file.read([bytes_column, label_column])
        labels = table[label_column]
        images = table.flatten()[bytes_column].cast(pa.large_binary())
    if table.num_rows == 0:
        raise DataError(f"{path}: no rows; remove the file or fetch it again")
    for what, column in (("image", images), ("label", labels)):
        _require_no_row(path, np.asarray(column.is_null()), f"the {what} is null; fill it in or drop the row")
    return _Shard(path, images, *_labels(labels, listed, f"{path}: column {printable(label_column)}"))


def _labels(column: Any, listed: tuple[str, ...] | None, where: str) -> tuple[np.ndarray, tuple[str, ...] | None, bool]:
    """Return labels (N,) int64, the names that they are positions in or None, and whether the schema lists these."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):
        return column.cast(kind).to_numpy().astype(np.int64), listed, listed is not None
    if pa.types.is_boolean(kind):
        return column.to_numpy().astype(np.int64), ("false", "true"), False
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(
            f"{where} is {kind}; labels are integers, strings or booleans; name another: --label-column NAME"
        )
    values = column.cast(kind).combine_chunks().dictionary_encode()
    names, position = np.unique([class_name(name) for name in values.dictionary.to_pylist()], return_inverse=True)
    return position[values.indices.to_numpy()], tuple(names.tolist()), False


def _require_no_row(path: Path, wrong: np.ndarray, message: str) -> None:
    """Raise a DataError for the first row of a file that is wrong, given (N,) bool."""
    if wrong.any():
        raise DataError(f"{path} row {int(np.argmax(wrong))}: {message}")


def _bytes_column(schema: Any, name: str, path: Path) -> str:
    """Return where the bytes of a column of images are: `image.bytes` for a struct {bytes, path} called `image`."""
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return name
    raise DataError(
        f"{path}: column {printable(name)} is {kind}; images are binary or a struct with a field bytes; name another: "
        "--image-column NAME"
    )


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what the Hugging Face metadata says of the columns."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    return {column: feature for column, feature in features.items() if isinstance(feature, dict)}


def _listed_names(schema: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """Return the class names of each column that the schema calls a ClassLabel."""
    return {
        column: tuple(class_names(feature["names"], f"{path} column {printable(column)}"))
        for column, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and feature.get("names") and column in schema.names
    }


def _classes(train: list[_Shard], val: list[_Shard]) -> tuple[str, ...]:
    """Return the classes: as the schema lists them, else the labels themselves, sorted, else numbers."""
    first = train[0]
    for shard in (*train, *val):
        reason = ""
        if (shard.names is None) != (first.names is None):
            reason = "one of the two has none"
        elif shard in train and first.in_schema:
            reason = class_difference(first.names or (), shard.names or ())
        if reason:
            raise DataError(
                f"{shard.path}: class names differ from those of {first.path.name} ({reason}); write all files with "
                "one list of names"
            )
    if first.names is None:
        top = max(int(shard.labels.max()) for shard in train)
        # no more classes than images, or one absurd label would ask for as many names
        return tuple(str(number) for number in range(min(top + 1, sum(len(shard.labels) for shard in train))))
    if first.in_schema:
        return first.names
    return tuple(sorted({name for shard in train for name in shard.names or ()}))


def _split(shards: list[_Shard], classes: tuple[str, ...]) -> Split:
    import pyarrow as pa

    labels = np.concatenate([_positions(shard, classes) for shard in shards])
    first_rows = np.cumsum([0, *(len(shard.labels) for shard in shards[:-1])])
    encoded = pa.chunked_array([chunk for shard in shards for chunk in shard.images.chunks])
    return Split(ParquetImages(encoded, tuple(str(shard.path) for shard in shards), first_rows), labels)


def _positions(shard: _Shard, classes: tuple[str, ...]) -> np.ndarray:
    """Return a file's labels as positions in the classes of training, (N,) int64, matched by name."""
    names = classes if shard.names is None else shard.names
    wrong = (shard.labels < 0) | (shard.labels >= len(names))
    label = shard.labels[int(np.argmax(wrong))]
    _require_no_row(shard.path, wrong, f"label {label} is not among the {len(names)} classes")
    position = {name: index for index, name in enumerate(classes)}
    positions = np.array([position.get(name, -1) for name in names], dtype=np.int64)[shard.labels]
    extra = sorted({names[label] for label in shard.labels[positions < 0]})
    _require_no_row(
        shard.path,
        positions < 0,
        f"not among the classes of train ({listing(map(printable, classes))}): {listing(map(printable, extra))}; drop "
        "such rows, or add images to train",
    )
    return positions
