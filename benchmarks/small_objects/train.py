"""Train a stage of the experiment on small objects: docs/experiments.md.

    python benchmarks/small_objects/train.py pilot                     into runs/small-objects
    python benchmarks/small_objects/train.py main --out FOLDER --at-once 2

The same command goes on after a stop. Each run is a process of one thread.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from arms import STAGES, planned

from transmix.compare.train import train_missing


def main() -> int:
    """Train what is missing of a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path("runs/small-objects"))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds of the stage")
    asked = parser.parse_args()
    stage = STAGES[asked.stage]
    if asked.seeds:
        stage = replace(stage, seeds=tuple(asked.seeds))
    outcome = train_missing(planned(stage), asked.out, [{"OMP_NUM_THREADS": "1"}] * asked.at_once)
    return 1 if outcome.failed else 128 + outcome.signal if outcome.signal else 0


if __name__ == "__main__":
    sys.exit(main())
