"""transmix doctor: what in a data set would stop or mislead training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.data.dataset import DataError
from transmix.doctor import examine
from transmix.doctor.report import as_json, as_text
from transmix.recipes.check import check_grey_range


@dataclass(frozen=True)
class Doctor:
    """Look at every image of a data set: broken files, odd kinds, duplicates, leaks from train to val, folders.

    Exit code 0: nothing that would stop or mislead training; 1: problems were found; 2: there is no such data set.
    """

    data: Annotated[str, tyro.conf.Positional, "data"]
    """Data set: 'digits', or a folder in any layout that training takes."""
    grey_range: tuple[float, float] | None = None
    """Values that become black and white in grey images of more than 8 bits; None: the least and the greatest of the
    training images."""
    workers: int | None = None
    """Number of processes that look at images; None: as many as the cores allow."""
    all: Annotated[bool, "output"] = False
    """List all findings, not only the first three of each kind."""
    json: Path | None = None
    """JSON file to write the findings to as well."""


def main(arguments: list[str]) -> int:
    """Parse the command line, look, print a summary and return the exit code."""
    asked = parse(Doctor, "doctor", arguments)
    check_grey_range(asked.grey_range)
    report = examine(asked.data, workers=asked.workers, grey_range=asked.grey_range)
    print(as_text(report, limit=None if asked.all else 3))
    if asked.json is not None:
        try:
            asked.json.write_text(json.dumps(as_json(report), indent=1), encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {asked.json}: {error.strerror}") from error
        print(f"\nwritten to {asked.json}")
    return 0 if report.sound else 1
