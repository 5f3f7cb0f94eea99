"""transmix replay: re-run a step with NaN or Inf and locate it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.training.replay import replay


@dataclass(frozen=True)
class Replay:
    """Run the step that stopped a run again: which module, which images, which gradients are not finite."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run that stopped because a loss or gradient was not finite."""
    device: str = "auto"
    """'auto': cuda where there is one, else cpu."""


def main(arguments: list[str]) -> None:
    """Parse the command line and print what was found."""
    asked = parse(Replay, "replay", arguments)
    for line in replay(asked.run, asked.device):
        print(line)
