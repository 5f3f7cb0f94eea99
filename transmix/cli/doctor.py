"""transmix doctor: what in a data set would stop or mislead training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.data.dataset import DataError
from transmix.data.settings import Data
from transmix.data.source import choice_of
from transmix.doctor import examine
from transmix.doctor.report import as_json, as_text
from transmix.recipes.check import check_grey_range


@dataclass(frozen=True)
class Doctor:
    """Check every image of a data set: broken files, unusual formats, duplicates, leaks from train to val, folders.

    Exit code 0: nothing that would stop or mislead training; 1: problems were found; 2: there is no such data set.
    """

    data: Annotated[str, tyro.conf.Positional, "data"]
    """Data set: 'digits', or a folder in any layout that `transmix train` reads."""
    held_out: str | None = None
    """Part for validation, as for `transmix train`."""
    val_fraction: float | None = None
    """Hold out this fraction of each class of the training images, as `transmix train` does: the same images."""
    image_column: str | None = None
    """Column with the images in Parquet files and label lists; None: found by its name."""
    label_column: str | None = None
    """Column with the labels in Parquet files and label lists; None: found by its name."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits; None: minimum and maximum over the training
    images."""
    workers: int | None = None
    """Number of worker processes; None: chosen from the CPU cores."""
    all: Annotated[bool, "output"] = False
    """List all findings, not only the first three of each kind."""
    json: Path | None = None
    """Also write the findings to this JSON file."""


def main(arguments: list[str]) -> int:
    """Parse the command line, look, print a summary and return the exit code."""
    asked = parse(Doctor, "doctor", arguments)
    check_grey_range(asked.grey_range)
    names = "held_out", "val_fraction", "image_column", "label_column"
    choice = choice_of(Data(**{name: getattr(asked, name) for name in names}))
    report = examine(asked.data, workers=asked.workers, grey_range=asked.grey_range, choice=choice)
    print(as_text(report, limit=None if asked.all else 3))
    if asked.json is not None:
        try:
            asked.json.write_text(json.dumps(as_json(report), indent=1), encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {asked.json}: {error.strerror}") from error
        print(f"\nwritten to {asked.json}")
    return 0 if report.sound else 1
