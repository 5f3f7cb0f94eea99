"""transmix replay: re-run a step with NaN or Inf and locate it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.training.replay import replay


@dataclass(frozen=True)
class Replay:
    """Re-run a step with NaN or Inf and locate it: the module, the images, the gradients."""

    run: Annotated[Path, tyro.conf.Positional, "run"]
    """Folder of a run that stopped because of a NaN/Inf loss or gradient."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, ...; auto: cuda if there is a GPU, else cpu."""


def main(arguments: list[str]) -> None:
    """Parse the command line and print what was found."""
    asked = parse(Replay, "replay", arguments)
    for line in replay(asked.run, asked.device):
        print(line)
