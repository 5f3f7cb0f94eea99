"""transmix train: a recipe, with settings from the command line over it, to a run folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from transmix.cli.options import as_defaults, given_options, parse, value_of, with_current_names
from transmix.recipes import Recipe, load_recipe
from transmix.training.loop import train

DEFAULT_RECIPE = "digits"


@dataclass(frozen=True)
class Train:
    """Train a Vision Transformer as a recipe says. Options given here replace the recipe's settings."""

    out: Annotated[Path, "run folder"]
    """Run folder to create."""
    recipe: str = DEFAULT_RECIPE
    """Recipe to train: one that comes with the package (transmix recipes ls lists them), or a YAML file."""
    resume: bool = False
    """Continue the run in --out if it stopped; start a new one if there is none; do nothing if it is finished."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> None:
    """Parse the command line and train."""
    recipe = as_defaults(load_recipe(recipe_name(arguments)), arguments)
    parsed = parse(Train, "train", with_current_names(arguments), Train(out=tyro.MISSING, settings=recipe))
    settings = given_options(recipe, parsed.settings)
    train(settings, parsed.out, parsed.resume, at_end=_report)


def _report(run: Path) -> None:
    """Write the page about a finished run."""
    from transmix.report.run import write_report

    print(f"report: {write_report(run)}", flush=True)


def recipe_name(arguments: list[str]) -> str:
    """Return the value of --recipe. It is needed first, because the recipe gives the defaults of all other options."""
    return value_of(arguments, "--recipe", DEFAULT_RECIPE)
