"""Parquet files as on the Hugging Face hub: encoded images, integer labels, class names in the schema.

The package `datasets` is not used here: it first converts all files to a second copy on disk, and then cannot name the
file and row of an unreadable image.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transmix.data.dataset import DataError, ImageData
from transmix.data.parts import TRAIN, USUAL, Choice
from transmix.data.tables import Table, read_tables


def holds_parquet(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or `data` inside it, has Parquet files named after the training split."""
    return any(name.lower() in TRAIN for name in _parts(Path(root)))


def read_parquet(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Read a data set of Parquet files, such as `train-00000-of-00002.parquet`.

    The training split is every `train-*.parquet` (or `train.parquet`) in the folder or in `data` inside it;
    the other split is the first of `val`, `valid`, `validation`, ..., `test` that exists. `read_tables` describes the
    columns.

    The encoded bytes of all images are kept in memory; they are decoded on indexing.

    Args:
        root: The folder with the files.
        choice: Which part to hold out, and which columns to take.

    Raises:
        DataError: If files or columns are missing, a label or an image is null, a label has no name or is not a
            training class, or a class has no training image. The message names the file and row.
    """
    root = Path(root)
    present = _parts(root)
    tables_of = lambda part: [_table(path) for path in _whole(present[part], part)]  # noqa: E731
    return read_tables(root.resolve().name, present, tables_of, choice, root, "files {}-*.parquet")


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
    """Check that no file of a numbered series is missing."""
    series = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if series and series != {len(files)}:
        raise DataError(
            f"{files[0].parent}: {len(files)} files of {split}, but their names say there are "
            f"{' and '.join(map(str, sorted(series)))}; complete the download or remove what is left over"
        )
    return files


def _table(path: Path) -> Table:
    import pyarrow.parquet as pq

    schema = _readable(path, lambda: pq.read_schema(path))
    return Table(str(path), schema, lambda columns: _readable(path, lambda: pq.ParquetFile(path).read(columns)))


def _readable(path: Path, read: Callable[[], Any]) -> Any:
    """Read a file; an error of pyarrow becomes one line."""
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable Parquet file ({reason}); fetch it again") from error
