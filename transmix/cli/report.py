"""transmix report: a self-contained HTML report of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.report.run import write_report


@dataclass(frozen=True)
class Report:
    """Write one HTML file about a run, finished or not, with everything in it: no network, no other file."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    out: Path | None = None
    """The file; report.html in the run folder if not given."""


def main(arguments: list[str]) -> None:
    """Parse the command line, write the report, and say where."""
    asked = parse(Report, "report", arguments)
    print(f"written to {write_report(asked.run, asked.out)}")
