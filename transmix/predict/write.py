"""Write predictions: CSV, JSON lines or Parquet, by the ending of the file; or lines for a terminal."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from transmix.predict.predictions import Prediction
from transmix.printable import printable
from transmix.runs.atomic_write import replacing, why
from transmix.runs.error import RunError

GROUP = 8192
"""Rows of a row group of Parquet."""

NAME, AT_ONCE = 60, 64
"""Letters that the column of names takes in a terminal, at most; and lines that are printed together."""

Write = Callable[[Prediction], None]
Kind = Callable[[BinaryIO, int, int | None, dict[str, str]], AbstractContextManager[Callable[[dict[str, Any]], None]]]


@contextmanager
def writer(path: Path, top: int, features: int | None, about: dict[str, str]) -> Iterator[Write]:
    """Return a function that adds a prediction to a file, which is there at the end, complete, or not at all.

    Args:
        path: its ending is one of `FORMATS`.
        top: k, number of classes of each prediction.
        features: D, length of the features; None: without.
        about: how the predictions were made; Parquet keeps it in the metadata of its schema.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with replacing(path) as file, FORMATS[path.suffix.lower()](file, top, features, about) as add:
            yield lambda one: add(_row(one, top, features is not None))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {why(error)}", 1) from error


def columns(top: int, features: int | None = None) -> dict[str, pyarrow.DataType]:
    """Return name -> type of the columns."""
    ranks = {}
    for rank in range(1, top + 1):
        ranks |= {f"class_{rank}": pyarrow.string(), f"probability_{rank}": pyarrow.float32()}
    vectors = {} if features is None else {"features": pyarrow.list_(pyarrow.float32(), features)}
    return {"image": pyarrow.string(), "label": pyarrow.string(), **ranks, "error": pyarrow.string(), **vectors}


def _row(one: Prediction, top: int, features: bool) -> dict[str, Any]:
    ranks: dict[str, Any] = {}
    for rank in range(top):
        known = rank < len(one.classes)
        ranks[f"class_{rank + 1}"] = one.classes[rank] if known else None
        # as short as float32 allows: 0.9, not 0.8999999761581421
        ranks[f"probability_{rank + 1}"] = float(str(one.probabilities[rank])) if known else None
    row = {"image": one.image, "label": one.label, **ranks, "error": one.error}
    # Bytes of a file's name that are no UTF-8 come as lone surrogates, which none of the formats can hold.
    row = {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }
    return row | ({"features": one.features} if features else {})


@contextmanager
def _csv(file: BinaryIO, top: int, features: int | None, about: dict[str, str]) -> Iterator[Callable]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = csv.DictWriter(text, columns(top), lineterminator="\n")
    rows.writeheader()
    yield rows.writerow
    text.detach()


@contextmanager
def _json_lines(file: BinaryIO, top: int, features: int | None, about: dict[str, str]) -> Iterator[Callable]:
    yield lambda row: file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


@contextmanager
def _parquet(file: BinaryIO, top: int, features: int | None, about: dict[str, str]) -> Iterator[Callable]:
    schema = pyarrow.schema(columns(top, features), {"transmix": json.dumps(about)})
    waiting: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as table:

        def flush() -> None:
            table.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def add(row: dict[str, Any]) -> None:
            waiting.append(row)
            if len(waiting) == GROUP:
                flush()

        yield add
        flush()


FORMATS: dict[str, Kind] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
"""Ending -> what writes it."""


@contextmanager
def lines() -> Iterator[Write]:
    """Return a function that prints a prediction as a line on the terminal, some lines at a time, in columns."""
    waiting: list[Prediction] = []

    def flush() -> None:
        width = min(NAME, max((len(printable(one.image)) for one in waiting), default=0))
        for one in waiting:
            tqdm.write(_line(one, width), file=sys.stdout)
        waiting.clear()

    def add(one: Prediction) -> None:
        waiting.append(one)
        if len(waiting) == AT_ONCE:
            flush()

    try:
        yield add
    finally:
        flush()


def _line(one: Prediction, width: int) -> str:
    said = [f"{name} {100 * share:.1f} %" for name, share in zip(one.classes, one.probabilities, strict=True)]
    return f"{printable(one.image):<{width}}  {printable(f'error: {one.error}' if one.error else ', '.join(said))}"
