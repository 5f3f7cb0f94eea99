"""transmix recipes: list, show and copy the recipes that come with the package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from transmix.cli.options import parse
from transmix.recipes import RecipeError, recipe_names, recipe_text


@dataclass(frozen=True)
class Recipes:
    """List, show or copy the recipes that come with the package.

    Use one with `transmix train --recipe NAME`. Copy one to change it, and use the copy with
    `transmix train --recipe FILE.yaml`.
    """

    action: Annotated[Literal["ls", "show", "cp"], tyro.conf.Positional, "recipes"] = "ls"
    """ls: list names with a description. show: print a recipe, with the sources of its numbers. cp: copy it."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """Recipe to show or copy."""
    file: Annotated[Path | None, tyro.conf.Positional] = None
    """File to copy the recipe to; None: NAME.yaml in the current folder. An existing file is not overwritten."""


def main(arguments: list[str]) -> None:
    """List, show or copy."""
    asked = parse(Recipes, "recipes", arguments)
    if (asked.name is None) != (asked.action == "ls") or (asked.file is not None and asked.action != "cp"):
        raise RecipeError(f"not understood: recipes {' '.join(arguments)}; see transmix recipes --help")
    if asked.name is None:
        width = max(map(len, recipe_names()))
        for name in recipe_names():
            print(f"{name:<{width}}  {recipe_text(name).splitlines()[0].lstrip('# ')}")
    elif asked.action == "show":
        print(recipe_text(asked.name), end="")
    else:
        text, target = recipe_text(asked.name), asked.file or Path(f"{asked.name}.yaml")
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise RecipeError(f"{target} exists already; name another file") from None
        except OSError as error:
            raise RecipeError(f"cannot write {target}: {error}") from error
        print(f"wrote {target}; use it with: transmix train --recipe {target} --out RUN")
