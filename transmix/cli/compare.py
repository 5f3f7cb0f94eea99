"""transmix compare: compare runs on a page; with --mix, train missing runs first."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.help import help_text
from transmix.cli.options import given_options, parse, split_options, with_current_names, with_given_start, words_of
from transmix.cli.train import recipe_name
from transmix.compare import compare_runs, read_run, write_comparison
from transmix.compare.label_twin import NO_TWIN
from transmix.compare.text import verdict
from transmix.compare.train import lacks_twin, places, plan, train_missing
from transmix.compare.write import tables
from transmix.printable import printable
from transmix.recipes import Recipe, RecipeError, load_recipe
from transmix.recipes.mixing import mix_and_labels, rule_name
from transmix.runs.error import RunError

WITHOUT_DATA = "digits"
"""The recipe where neither recipe nor data are named."""

TRAIN_FIRST = "train first, then compare"


@dataclass(frozen=True)
class CompareRuns:
    """Compare runs: scores over seeds, paired differences with their significance, curves.

    Runs whose recipes differ only in the seed are one group. With --mix or --labels, the runs are trained first:
    transmix compare --mix none cutmix transmix --seeds 3 --recipe digits.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, "compare runs"]
    """Folders of runs on the same data, two or more."""
    out: Path = Path("compare.html")
    """Page to write; a table (.md) and all numbers (.json) are written beside it."""
    baseline: str | None = None
    """Group that the others are compared with; None: CutMix if it is there, else the first."""


@dataclass(frozen=True)
class Mixes:
    """Mixes and label rules to train with. These options take several values."""

    mix: Annotated[tuple[str, ...], TRAIN_FIRST] = ()
    """Mixes to train with: none, mixup, cutmix, transmix, ...; default: the recipe's."""
    labels: tuple[str, ...] = ()
    """Label rules to train each mix with: area, attention, line, centre; default: the mix's own."""


@dataclass(frozen=True)
class TrainAndCompare:
    """Train a recipe with each of several mixes, label rules and seeds, then compare.

    Finished runs in OUT are reused and stopped ones are resumed, so repeat the same command after a stop. Any option of
    transmix train can be given; it applies to all runs.
    """

    seeds: Annotated[int, TRAIN_FIRST] = 3
    """Number of seeds per mix and label rule: 0, 1, ..."""
    recipe: str = WITHOUT_DATA
    """Recipe to train: one that comes with the package (transmix recipes ls lists them), or a YAML file. With --data
    and without --recipe: finetune."""
    out: Path | None = None
    """Folder of the runs and of compare.html, .md and .json; None: runs/compare-RECIPE."""
    baseline: str | None = None
    """Group that the others are compared with; None: CutMix if it is there, else the first."""
    at_once: int | None = None
    """Number of runs to train in parallel; None: one per CPU core (each run uses one thread), or one per GPU."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> int:
    """Parse the command line, train what is missing if mixes are named, compare, write, and print the table."""
    mixes, rest = take_words(with_current_names(arguments), "--mix")
    labels, rest = take_words(rest, "--labels")
    wants_help = {"-h", "--help"} & set(arguments)
    if mixes is None and labels is None and not wants_help:
        asked = parse(CompareRuns, "compare", arguments)
        if asked.out.suffix != ".html":
            raise RecipeError(f"--out is the page to write and ends in .html, got {asked.out}")
        _compare(asked.runs, asked.out, asked.baseline, arguments)
        return 0
    named = any(words_of(rest, option) is not None for option in ("--recipe", "--data"))
    name = recipe_name(rest) if named else WITHOUT_DATA
    recipe = with_given_start(load_recipe(name), rest)
    if wants_help:
        print(help_text("compare", {CompareRuns: None, Mixes: None, TrainAndCompare: TrainAndCompare(settings=recipe)}))
        return 0
    # Settings of the recipe's own label rule are for that rule alone; those on the command line for every rule.
    own = {rule_name(recipe.mixing): recipe.mixing.labels_options}
    recipe = replace(recipe, mixing=replace(recipe.mixing, labels_options={}))
    trained = parse(TrainAndCompare, "compare", rest, TrainAndCompare(recipe=name, settings=recipe))
    mixes = [mix_and_labels(recipe.mixing.mix, None)[0]] if mixes is None else mixes
    _check_asked(mixes, labels, trained, recipe)
    fixed, slots = places(given_options(recipe, trained.settings), trained.at_once)
    planned = plan(fixed, mixes, trained.seeds, labels or (), own)
    return _train_and_compare(planned, slots, trained, arguments)


def take_words(arguments: Sequence[str], option: str) -> tuple[list[str] | None, list[str]]:
    """Return the words after an option up to the next option, and all other words; None if the option is not given."""
    others = [words for words in split_options(list(arguments)) if words[:1] != [option]]
    return words_of(list(arguments), option), [word for words in others for word in words]


def _check_asked(mixes: list[str], labels: list[str] | None, asked: TrainAndCompare, base: Recipe) -> None:
    if not mixes:
        raise RecipeError("--mix names no mix; for instance --mix cutmix transmix")
    if labels == []:
        raise RecipeError("--labels names no rule; for instance --labels area attention")
    if asked.settings.run.seed != base.run.seed:
        raise RecipeError("give --seeds N, the number of seeds, instead of --seed")
    if asked.settings.run.max_steps is not None:
        raise RecipeError("--max-steps stops runs before their end, and those are not compared; give --epochs instead")
    if asked.out is not None and asked.out.suffix in (".html", ".json", ".md"):
        raise RecipeError(f"--out is a folder where runs are trained, got {asked.out}; the page is compare.html in it")


def _train_and_compare(
    planned: dict[str, Recipe], slots: list[dict[str, str]], asked: TrainAndCompare, arguments: list[str]
) -> int:
    folder = asked.out or Path("runs") / f"compare-{Path(asked.recipe).stem}"
    if lacks_twin(planned.values()):
        print(f"note: {NO_TWIN}", flush=True)
    outcome = train_missing(planned, folder, slots)
    if outcome.signal:
        name = signal.Signals(outcome.signal).name
        finished = sum((folder / run / "summary.json").exists() for run in planned)
        raise RunError(
            f"stopped by {name} with {finished} of {len(planned)} runs finished; repeat the command to continue",
            128 + outcome.signal,
        )
    ways = list(dict.fromkeys(name.rpartition("-seed")[0] for name in planned))
    in_order = sorted(planned, key=lambda name: ways.index(name.rpartition("-seed")[0]))
    runs = [folder / name for name in in_order if (folder / name / "recipe.yaml").exists()]
    names = ", ".join(outcome.failed)
    failed = f"{len(outcome.failed)} of {len(planned)} runs failed: {names}; the same command tries again"
    try:
        _compare(runs, folder / "compare.html", asked.baseline, arguments)
    except RunError as error:
        raise RunError(f"{failed}. {error}", 1) if outcome.failed else error from None
    if outcome.failed:
        raise RunError(failed, 1)
    return 0


def _compare(runs: Sequence[Path], page: Path, baseline: str | None, arguments: list[str]) -> None:
    comparison = compare_runs([read_run(run) for run in runs], baseline)
    written = write_comparison(comparison, page, command=shlex.join(["transmix", "compare", *arguments]))
    for caution in comparison.cautions:
        print(f"warning: {printable(caution)}", file=sys.stderr)
    print(f"{printable(verdict(comparison))}\n")
    print(tables(comparison))
    print(f"written to {', '.join(map(str, written))}")
