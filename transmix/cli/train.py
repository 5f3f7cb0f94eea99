"""transmix train: a recipe, with settings from the command line over it, to a run folder."""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli import VERBS
from transmix.cli.options import as_defaults, given_options, parse, value_of, with_current_names, words_of
from transmix.metrics import METRICS, says_something
from transmix.recipes import Recipe, RecipeError, load_recipe
from transmix.runs.folder import read_classes
from transmix.runs.weights import choose_weights
from transmix.training.loop import train

FINE_TUNING = "finetune"
"""The recipe for one's own images, if no other is named."""

SCORES = ("top1", "top5", "calibration_error")

NEXT = {
    "evaluate": "transmix evaluate {run}",
    "predict": "transmix predict {run} IMAGES...",
    "export": "transmix export {run}",
    "app": "transmix app {run}",
}
"""What to do with a run: command -> how."""


@dataclass(frozen=True)
class Train:
    """Train a Vision Transformer as a recipe says. Options given here replace the recipe's settings.

    transmix train --data FOLDER --out RUN fine-tunes published weights on a folder of photographs.
    """

    out: Annotated[Path, "run folder"]
    """Run folder to create."""
    recipe: str = FINE_TUNING
    """Recipe to train: one that comes with the package (transmix recipes ls lists them), or a YAML file. With --resume,
    the run's own if none is named."""
    resume: bool = False
    """Continue the run in --out if it stopped; start a new one if there is none; do nothing if it is finished."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> None:
    """Parse the command line and train."""
    name = recipe_name(arguments)
    recipe = as_defaults(load_recipe(name), arguments)
    parsed = parse(Train, "train", with_current_names(arguments), Train(out=tyro.MISSING, recipe=name, settings=recipe))
    settings = given_options(recipe, parsed.settings)
    check_asked(name, settings)
    train(settings, parsed.out, parsed.resume, at_end=_end, name=name)


def _end(run: Path) -> None:
    """Write the page about a finished run, and print its scores and what to do next."""
    from transmix.report.run import write_report

    weights, best = choose_weights(run), json.loads((run / "summary.json").read_text(encoding="utf-8"))["best"]
    known = [name for name in SCORES if name in weights.scores and says_something(name, len(read_classes(run)))]
    scores = ", ".join(f"{METRICS[name].label} {METRICS[name].write(weights.scores[name])}" for name in known)
    print(f"scores    {scores or 'not evaluated'}: {weights}", flush=True)
    if best and best["score"] > weights.scores.get("top1", math.inf):
        top1 = METRICS["top1"]
        print(
            f"best      {top1.label} {top1.write(best['score'])} at epoch {best['epoch']}; evaluate and export take it "
            f"with --checkpoint best",
            flush=True,
        )
    print(f"report    {write_report(run)}", flush=True)
    quoted = shlex.quote(str(run))
    commands = [command.format(run=quoted) for verb, command in NEXT.items() if verb in VERBS]
    print(*(f"{'' if row else 'next':<10}{command}" for row, command in enumerate(commands)), sep="\n", flush=True)


def recipe_name(arguments: list[str]) -> str:
    """Return the value of --recipe. It is needed first, because the recipe gives the defaults of all other options.

    Without it: a resumed run's own recipe, else the one for fine-tuning.
    """
    given = value_of(arguments, "--recipe")
    if given is not None:
        return given
    own = Path(value_of(arguments, "--out", "")) / "recipe.yaml"
    return str(own) if words_of(arguments, "--resume") is not None and own.is_file() else FINE_TUNING


def check_asked(name: str, recipe: Recipe) -> None:
    """Check that a command line says what to train.

    Raises:
        RecipeError: it names neither data nor a recipe that brings some.
    """
    if name == FINE_TUNING and recipe.data.data is None:
        raise RecipeError(
            "nothing says what to train: --data FOLDER fine-tunes a model on your images (transmix train --data FOLDER "
            "--out RUN), --recipe digits trains one on built-in digits (transmix train --recipe digits --out RUN)"
        )
