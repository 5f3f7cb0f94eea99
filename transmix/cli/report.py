"""transmix report: a self-contained HTML report of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.report.run import write_report


@dataclass(frozen=True)
class Report:
    """Write a self-contained HTML report of a run, finished or not: one file that loads nothing from elsewhere."""

    run: Annotated[Path, tyro.conf.Positional, "files"]
    """Run folder."""
    out: Path | None = None
    """File to write; None: report.html in the run folder."""


def main(arguments: list[str]) -> None:
    """Parse the command line, write the report, and say where."""
    asked = parse(Report, "report", arguments)
    print(f"written to {write_report(asked.run, asked.out)}")
