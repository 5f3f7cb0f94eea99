"""The comparisons behind published tables: mixes x seeds of one recipe under one budget.

    python benchmarks/compare/run.py digits                         what BUDGETS says, in runs/compare-digits
    python benchmarks/compare/run.py cifar100_deit_tiny --data CIFAR100
    python benchmarks/compare/run.py digits --out FOLDER --at-once 1
    python benchmarks/compare/run.py digits --remark "..."          a sentence that stays with the figures

More words go to `transmix compare`. The same command goes on after a stop. Then the budget's suites measure each run.
In the end benchmarks/results/compare_NAME.json holds every run with its scores, command, commit, seed, machine and
versions, the unfinished ones too; `python benchmarks/compare/results.py` makes docs/results.md of all such files.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from suites import measure

from transmix.cli import complain
from transmix.cli.compare import main as compare
from transmix.compare import read_run
from transmix.methods import NAMED
from transmix.recipes import RecipeError
from transmix.runs.error import RunError
from transmix.runs.read import RunRecord

RESULTS = Path(__file__).resolve().parents[1] / "results"
MIXES = ("none", "mixup", "cutmix", "mixup+cutmix", "transmix")


class Budget(NamedTuple):
    """What is trained: a recipe with each mix and seeds 0 to seeds - 1, with settings that hold for all.

    `suites` are the words of `transmix evaluate RUN --suite ...` that each run is measured with.
    """

    recipe: str
    mixes: tuple[str, ...] = MIXES
    seeds: int = 3
    settings: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


LABEL_ALONE = ("cutmix", "mixup+cutmix", "transmix")
"""TransMix, the mix that differs from it in the label alone, and CutMix without Mixup."""

ALL_METHODS = ("none", "cutmix", "mixup+cutmix", "transmix", *NAMED)
"""TransMix with its baselines, and every method that has a class of its own."""

WITH_MASKS = ("calibration", "occlusion", "attention-quality", "label-truth")
WITHOUT_MASKS = ("calibration", "occlusion", "--occlusion-ratios", "0", "0.5")


BUDGETS = {
    "digits": Budget("digits", seeds=5, suites=WITH_MASKS),
    "digits32": Budget("digits32", seeds=5, suites=WITH_MASKS),
    "digits32_boxes": Budget("digits32", ("cutmix", "transmix"), 5, ("--mixup-alpha", "0"), WITH_MASKS),
    "digits_methods": Budget("digits_vit", ALL_METHODS),
    "cifar100_small": Budget("cifar100_small", LABEL_ALONE, suites=WITHOUT_MASKS),
    "cifar100_deit_tiny": Budget("cifar100_deit_tiny", LABEL_ALONE, suites=WITHOUT_MASKS),
    "imagenet_deit_small": Budget("imagenet_deit_small", LABEL_ALONE, suites=WITHOUT_MASKS),
}
"""Name -> budget. Each has a mix that differs from TransMix in the label alone: both, or CutMix where Mixup is off."""


def main(words: list[str]) -> int:
    """Train what is missing, compare, and collect."""
    if not words or words[0] not in BUDGETS:
        return complain(f"name a comparison: {', '.join(BUDGETS)}")
    name, *words = words
    words, remarks = take(words, "--remark")
    words, out = take(words, "--out")
    budget, folder = BUDGETS[name], Path(out[-1] if out else f"runs/compare-{name}")
    seeds = [] if "--seeds" in words else ["--seeds", str(budget.seeds)]
    asked = ["--recipe", budget.recipe, "--mix", *budget.mixes, *seeds, *budget.settings, *words]
    try:
        compare([*asked, "--out", str(folder)])
    except RecipeError as error:
        return complain(str(error))
    except RunError as error:
        if error.code != 1:
            return complain(str(error), error.code)
        remarks = [*remarks, str(error)]  # a run that fails is part of the result
    if not (folder / "compare.json").exists():
        return complain(f"{folder} holds no comparison: {' '.join(remarks)}", 1)
    path = RESULTS / f"compare_{name}.json"
    text = json.dumps(collect(folder, shlex.join(["transmix", "compare", *asked]), remarks, budget.suites), indent=1)
    places = {str(folder.absolute()): f"runs/{folder.name}"} | {
        word: Path(word).name for word in words if Path(word).is_absolute()
    }
    for place, name in places.items():  # where it lay here helps nobody
        text = text.replace(place, name)
    path.write_text(text + "\n")
    print(f"written to {path}")
    return 0


def take(words: list[str], option: str) -> tuple[list[str], list[str]]:
    """Return the words without an option and its values, and the values."""
    rest, values = list(words), []
    while option in rest:
        at = rest.index(option)
        values += rest[at + 1 : at + 2]
        del rest[at : at + 2]
    return rest, values


def collect(folder: Path, command: str, remarks: list[str], suites: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a comparison's numbers with what they depend on and what suites find; of folders only their names."""
    numbers = json.loads((folder / "compare.json").read_text())
    numbers |= {"kind": "comparison", "command": command, "remarks": remarks}
    for group in numbers["groups"]:
        runs = [read_run(Path(run["folder"])) for run in group["runs"]]
        group["settings"] = runs[0].settings
        for run, read in zip(group["runs"], runs, strict=True):
            run["folder"] = read.folder.name
            run["images"] = sum(read.images or ()) or None
            run["curve"] = curve(read, numbers["compared"])
            run["suites"] = measure(read.folder, suites) if suites and read.finished else {}
    return numbers


def curve(run: RunRecord, score: str) -> list[float | None]:
    """Return the compared score of each epoch."""
    return [row.get(score) for row in run.epochs]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
