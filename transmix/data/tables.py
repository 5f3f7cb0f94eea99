"""Tables of encoded images and labels: Parquet files, and data sets that Hugging Face's package `datasets` reads.

Parquet files are read here and not with `datasets`, which first converts all of them to a second copy on disk, and then
knows neither the file nor the row of an image that cannot be read.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.class_names import class_name, class_names, positions
from transmix.data.dataset import DataError, ImageData, Split, class_difference, listing, printable, require_every_class
from transmix.data.encoded import EncodedImages
from transmix.data.parts import TRAIN, USUAL, WHOLE, Choice, choose_parts, split_of
from transmix.error import one_line

HF_PREFIX = "hf:"
"""What the name or path of such a data set begins with as `--data`."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that is not read yet.

    Attributes:
        where: its location, for messages.
        schema: pyarrow schema with Hugging Face's metadata.
        read: function from column names to a pyarrow Table.
        has_paths: whether an image without bytes is read from the file in its `path`.
        groups: rows of each row group of a Parquet file whose images are read in order; None: they are kept in memory.
    """

    where: str
    schema: Any
    read: Callable[[list[str]], Any]
    has_paths: bool = False
    groups: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ArrowFiles:
    """Encoded images in memory or memory-mapped.

    Attributes:
        encoded: A pyarrow ChunkedArray of N binary values.
        files: The files they come from, in order.
        first_rows: (len(files),) the index of each file's first image.
        paths: N paths of images without bytes; None if all have bytes.
    """

    encoded: Any
    files: tuple[str, ...]
    first_rows: np.ndarray
    paths: Any = None

    def source(self, row: int) -> bytes | Path:
        """Return the encoded image."""
        content = self.encoded[row].as_py()
        return Path(self.paths[row].as_py()) if content is None else content

    def where(self, row: int) -> str:
        """Name the file and row of an image; rows are counted from 0 within each file."""
        return _row_of(self.files, self.first_rows, row)

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel, judging by their first bytes."""
        import pyarrow.compute as pc

        starts = pc.call_function("binary_slice", [self.encoded], pc.SliceOptions(0, 3)).to_pylist()
        return np.array([start not in (b"\xff\xd8\xff", b"RIF", b"GIF") for start in starts], dtype=bool)


def _row_of(files: tuple[str, ...], first_rows: np.ndarray, row: int) -> str:
    file = int(np.searchsorted(first_rows, row, side="right")) - 1
    return f"{files[file]} row {row - first_rows[file]}"


@dataclass(eq=False)
class ParquetRows:
    """Encoded images in Parquet files, with one row group in memory: fast only in order.

    Attributes:
        files: The files, in order.
        column: The column of images.
        first_rows: (len(files),) the index of each file's first image.
        groups: For each row group, the index of its first image, its file, and its number there: (G, 3) int64.
    """

    files: tuple[str, ...]
    column: str
    first_rows: np.ndarray
    groups: np.ndarray
    _held: tuple[int, Any] = (-1, None)

    def source(self, row: int) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: It is null, or the file cannot be read.
        """
        at = int(np.searchsorted(self.groups[:, 0], row, side="right")) - 1
        if self._held[0] != at:
            self._held = at, self._read(at)
        content = self._held[1][row - int(self.groups[at, 0])].as_py()
        if content is None:
            raise DataError(f"{self.where(row)}: the image is null; fill it in or drop the row")
        return content

    def where(self, row: int) -> str:
        """Name the file and row of an image; rows are counted from 0 within each file."""
        return _row_of(self.files, self.first_rows, row)

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel: any, since none is read."""
        import pyarrow.parquet as pq

        return np.ones(sum(pq.read_metadata(path).num_rows for path in self.files), dtype=bool)

    def _read(self, at: int) -> Any:
        import pyarrow.parquet as pq

        _, file, group = self.groups[at]
        path = Path(self.files[file])
        found = _readable(path, lambda: pq.ParquetFile(path).read_row_group(int(group), [self.column]))
        return _images(found[self.column], f"{path}: column {printable(self.column)}")[0]


@dataclass(frozen=True, eq=False)
class _Part:
    """Content of a table.

    Attributes:
        where: its location.
        images: N binary values, a pyarrow ChunkedArray; if they are read in order, only their column's name and the
            rows of each row group.
        paths: N paths, if images may be files; else None.
        labels: (N,) int64, indices into the names.
        names: class names; None if labels are numbers without names.
        in_schema: whether the names come from the schema, not from the labels.
    """

    where: str
    images: Any
    paths: Any
    labels: np.ndarray
    names: tuple[str, ...] | None
    in_schema: bool


def read_tables(
    name: str, present: Iterable[str], tables_of: Callable[[str], list[Table]], choice: Choice, where: object, form: str
) -> ImageData:
    """Read the two parts of a data set from their tables; `present`, `where` and `form` are as in `choose_parts`.

    The images are in a column `image` or `img`, else in the only one that the schema calls an Image, as a struct with a
    field `bytes` or as plain binary. The labels are in a column `label`, `labels` or `fine_label`, else in the only one
    that the schema calls a ClassLabel; they are numbers (with the schema's class names, else called '0', '1', ...),
    class names, or true and false. The held-out part is matched to the classes of training by name, and may lack some.

    Raises:
        DataError: If a column is missing, a label or an image is null, a label has no name or is not a training class,
            or a class has no training image. The message names the row.
    """
    train, parts = choose_parts(present, choice, where, form)
    tables = {part: tables_of(part) for part in (train, parts.held_out)}
    columns = _columns(tables[train][0], choice)
    found = {part: [_read(table, columns) for table in some] for part, some in tables.items()}
    of_train, of_val = found[train], found[parts.held_out]
    classes = _classes(of_train, of_val)
    splits = _split(of_train, classes), _split(of_val, classes)
    if not choice.for_evaluation:
        require_every_class(splits[0].labels, classes, of_train[0].where)
    return ImageData(name, classes, *splits, parts=replace(parts, columns=columns))


def _columns(table: Table, choice: Choice) -> tuple[str, str]:
    """Choose the columns of the images and of the labels by the first training table."""
    names, where = table.schema.names, table.where
    images = [name for name, kind in _features(table.schema, where).items() if kind.get("_type") == "Image"]
    labels = list(_listed_names(table.schema, where))

    def column(what: str, asked: str | None, usual: tuple[str, ...], typed: list[str]) -> str:
        found = asked or next((name for name in usual if name in names), typed[0] if len(typed) == 1 else None)
        if found is None:
            among = listing(map(printable, typed or names))
            raise DataError(f"{where}: which of {among} are the {what}s? Name the column: --{what}-column NAME")
        return found

    image = column("image", choice.image_column, ("image", "img"), images)
    return image, column("label", choice.label_column, ("label", "labels", "fine_label"), labels)


def _read(table: Table, columns: tuple[str, str]) -> _Part:
    where, names = table.where, table.schema.names
    for what, column in zip(("image", "label"), columns, strict=True):
        if column not in names:
            among = listing(map(printable, names))
            remedy = f"every file needs it, or name another: --{what}-column NAME"
            raise DataError(f"{where}: no column {printable(column)} among {among}; {remedy}")
    in_order = table.groups is not None
    found = table.read([columns[1]] if in_order else list(columns))
    if found.num_rows == 0:
        raise DataError(f"{where}: no rows; remove the file or fetch it again")
    shown = table.schema.empty_table() if in_order else found
    images, paths = _images(shown[columns[0]], f"{where}: column {printable(columns[0])}")
    paths = paths if table.has_paths else None
    labels = found[columns[1]]
    without = np.asarray(images.is_null()) & (True if paths is None else np.asarray(paths.is_null()))
    images = (columns[0], table.groups) if in_order else images
    for what, missing in (("image", without), ("label", np.asarray(labels.is_null()))):
        _require_no_row(where, missing, f"the {what} is null; fill it in or drop the row")
    listed = _listed_names(table.schema, where).get(columns[1])
    return _Part(where, images, paths, *_labels(labels, listed, f"{where}: column {printable(columns[1])}"))


def _images(column: Any, where: str) -> tuple[Any, Any]:
    """Return the bytes of a column of images, and the paths beside them if there are any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column, None
    fields = {
        name: pc.call_function("struct_field", [column], pc.StructFieldOptions(name))
        for name in ("bytes", "path")
        if pa.types.is_struct(kind) and kind.get_field_index(name) >= 0
    }
    if "bytes" not in fields:
        wanted = "images are binary or a struct with a field bytes"
        raise DataError(f"{where} is {kind}; {wanted}; name another: --image-column NAME")
    return fields["bytes"], fields.get("path")


def _labels(column: Any, listed: tuple[str, ...] | None, where: str) -> tuple[np.ndarray, tuple[str, ...] | None, bool]:
    """Return labels (N,) int64, the class names or None, and whether the names come from the schema."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):
        return column.cast(kind).to_numpy().astype(np.int64), listed, listed is not None
    if pa.types.is_boolean(kind):
        return column.to_numpy().astype(np.int64), ("false", "true"), False
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        wanted = "labels are integers, strings or booleans"
        raise DataError(f"{where} is {kind}; {wanted}; name another: --label-column NAME")
    values = column.cast(kind).combine_chunks().dictionary_encode()
    names, position = np.unique([class_name(name) for name in values.dictionary.to_pylist()], return_inverse=True)
    return position[values.indices.to_numpy()], tuple(names.tolist()), False


def _require_no_row(where: str, wrong: np.ndarray, message: str) -> None:
    """Raise a DataError for the first row of a file that is marked as wrong in (N,) bool."""
    if wrong.any():
        raise DataError(f"{where} row {int(np.argmax(wrong))}: {message}")


def _features(schema: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return the columns' types from the Hugging Face metadata."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError as error:
        raise DataError(f"{where}: its metadata for Hugging Face is no JSON ({error}); fetch it again") from error
    features = metadata.get("info", {}).get("features", {})
    return {column: feature for column, feature in features.items() if isinstance(feature, dict)}


def _listed_names(schema: Any, where: str) -> dict[str, tuple[str, ...]]:
    """Return the class names of each column that the schema calls a ClassLabel."""
    return {
        column: tuple(class_names(feature["names"], f"{where} column {printable(column)}"))
        for column, feature in _features(schema, where).items()
        if feature.get("_type") == "ClassLabel" and feature.get("names") and column in schema.names
    }


def _classes(train: list[_Part], val: list[_Part]) -> tuple[str, ...]:
    """Return the classes: from the schema, else the sorted labels, else numbers."""
    first = train[0]
    for part in (*train, *val):
        reason = ""
        if (part.names is None) != (first.names is None):
            reason = "one of the two has none"
        elif part in train and first.in_schema:
            reason = class_difference(first.names or (), part.names or ())
        if reason:
            others = f"those of {Path(first.where).name} ({reason})"
            raise DataError(f"{part.where}: class names differ from {others}; write all files with one list of names")
    if first.names is None:
        top = max(int(part.labels.max()) for part in train)
        # no more classes than images, or one absurd label would ask for as many names
        return tuple(str(number) for number in range(min(top + 1, sum(len(part.labels) for part in train))))
    if first.in_schema:
        return first.names
    return tuple(sorted({name for part in train for name in part.names or ()}))


def _split(tables: list[_Part], classes: tuple[str, ...]) -> Split:
    import pyarrow as pa

    labels = np.concatenate([_positions(part, classes) for part in tables])
    first_rows = np.cumsum([0, *(len(part.labels) for part in tables[:-1])])
    names = tuple(part.where for part in tables)
    if isinstance(tables[0].images, tuple):
        groups = [
            (first + start, file, group)
            for file, (first, part) in enumerate(zip(first_rows, tables, strict=True))
            for group, start in enumerate(np.cumsum([0, *part.images[1]])[:-1])
        ]
        rows = ParquetRows(names, tables[0].images[0], first_rows, np.array(groups))
        return Split(EncodedImages(rows, np.arange(len(labels))), labels)
    kinds = {part.images.type for part in tables}
    images = [part.images if len(kinds) == 1 else part.images.cast(pa.large_binary()) for part in tables]
    encoded = pa.chunked_array([chunk for some in images for chunk in some.chunks])
    files = ArrowFiles(encoded, names, first_rows, tables[0].paths)
    return Split(EncodedImages(files, np.arange(len(labels))), labels)


def _positions(part: _Part, classes: tuple[str, ...]) -> np.ndarray:
    """Return a file's labels as indices into the training classes, (N,) int64, matched by name."""
    names = classes if part.names is None else part.names
    wrong = (part.labels < 0) | (part.labels >= len(names))
    label = part.labels[int(np.argmax(wrong))]
    _require_no_row(part.where, wrong, f"label {label} is not among the {len(names)} classes")
    found = positions(names, classes)[part.labels]
    extra = listing(map(printable, sorted({names[label] for label in part.labels[found < 0]})))
    what = f"not among the classes of train ({listing(map(printable, classes))}): {extra}"
    _require_no_row(part.where, found < 0, f"{what}; drop such rows, or add images to train")
    return found


def holds_parquet(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or `data` inside it, has Parquet files named after the training split."""
    return any(name.lower() in TRAIN for name in _parts(Path(root)))


def holds_parquet_of_all(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or `data` inside it, has Parquet files of another part than training, or of all images."""
    return any(name == WHOLE or split_of(name) for name in _parts(Path(root)))


def read_parquet(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Read a data set of Parquet files, such as `train-00000-of-00002.parquet`.

    The training split is every `train-*.parquet` (or `train.parquet`) in the folder or in `data` inside it;
    the other split is the first of `val`, `valid`, `validation`, ..., `test` that exists. Files of one other name are
    all images, not divided into parts. `read_tables` describes the columns.

    The encoded bytes of all images are kept in memory, unless they are read in order; they are decoded on indexing.

    Args:
        root: The folder with the files.
        choice: Which part to hold out, and which columns to take.

    Raises:
        DataError: If files or columns are missing, a label or an image is null, a label has no name or is not a
            training class, or a class has no training image. The message names the file and row.
    """
    root = Path(root)
    present = _parts(root)
    tables_of = lambda part: [_parquet_table(path, choice.in_order) for path in _whole(present[part], part)]  # noqa: E731
    return read_tables(root.resolve().name, present, tables_of, choice, root, "files {}-*.parquet")


def _parts(root: Path) -> dict[str, list[Path]]:
    """List the files of each part: its name -> files, those in the folder before those in `data`."""
    found: dict[str, list[Path]] = {}
    for folder in (root / "data", root):
        here: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*.parquet")):
            here.setdefault(re.split(r"-|\.parquet$", path.name, maxsplit=1)[0], []).append(path)
        found |= here
    if len(found) == 1 and not split_of(name := next(iter(found))):
        return {WHOLE: found[name]}
    return found


def _whole(files: list[Path], split: str) -> list[Path]:
    """Check that no file of a numbered series is missing."""
    series = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if series and series != {len(files)}:
        there = f"{len(files)} files of {split}, but their names say there are {' and '.join(map(str, sorted(series)))}"
        raise DataError(f"{files[0].parent}: {there}; complete the download or remove what is left over")
    return files


def _parquet_table(path: Path, in_order: bool) -> Table:
    import pyarrow.parquet as pq

    schema = _readable(path, lambda: pq.read_schema(path))
    about = _readable(path, lambda: pq.read_metadata(path))
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    read = lambda columns: _readable(path, lambda: pq.ParquetFile(path).read(columns))  # noqa: E731
    return Table(str(path), schema, read, groups=np.array(rows, dtype=np.int64) if in_order else None)


def _readable(path: Path, read: Callable[[], Any]) -> Any:
    """Read a file; an error of pyarrow becomes one line."""
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({one_line(error)}); fetch it again") from error


def read_hf(name: str, choice: Choice = USUAL) -> ImageData:
    """Read a data set with `datasets`, without decoding images.

    Args:
        name: a folder of Parquet files, images or another format of `datasets`; one that `save_to_disk` wrote; a
            Parquet or Arrow file; or a name on the hub, with a configuration after a colon.
        choice: which part to hold out, and which columns to take.

    Raises:
        DataError: `datasets` is not installed or cannot load it, or as `read_tables`.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{HF_PREFIX}{name} needs the package datasets: pip install 'transmix[huggingface]'") from error
    loud = logging.getLogger("huggingface_hub.utils._http")  # tells of each of its tries to reach the hub
    level = loud.level
    try:
        loud.setLevel(logging.ERROR)
        found = _load(datasets, name)
    except Exception as error:  # datasets lets through whatever its readers and its network raise
        remedy = "without network, give a folder or file that is here"
        reason = one_line(error, named=True)
        raise DataError(f"{HF_PREFIX}{name}: datasets cannot load it ({reason}); {remedy}") from error
    finally:
        loud.setLevel(level)
    present: Any = found if isinstance(found, dict) else {"train": found}
    where = f"{HF_PREFIX}{name}"
    tables_of = lambda part: [_hf_table(present[part], f"{where} {part}")]  # noqa: E731
    return read_tables(Path(name).name, present, tables_of, choice, where, "split {}")


def _load(datasets: Any, name: str) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        return datasets.load_dataset("arrow" if path.suffix.lower() == ".arrow" else "parquet", data_files=str(path))
    if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(path)
    if path.is_dir() or name.startswith((".", "/", "~")):
        return datasets.load_dataset(str(path))
    hub, _, configuration = name.partition(":")
    return datasets.load_dataset(hub, configuration or None)


def _hf_table(dataset: Any, where: str) -> Table:
    def read(columns: list[str]) -> Any:
        undecoded = dataset.select_columns(list(dict.fromkeys(columns)))
        return undecoded.with_format("arrow")[:]

    # what save_to_disk and the cache hold need not say it in the schema itself
    metadata = {b"huggingface": json.dumps({"info": {"features": dataset.features.to_dict()}}).encode()}
    return Table(where, dataset.features.arrow_schema.with_metadata(metadata), read, has_paths=True)
