"""transmix recipes: list, show and copy the recipes that come with the package."""

import sys
from pathlib import Path

from transmix.recipes import RecipeError, recipe_names, recipe_text

USAGE = """usage: transmix recipes ls | show NAME | cp NAME [FILE]

Recipes that come with the package. Use one with `transmix train --recipe NAME`; copy one to change it and
use it with `transmix train --recipe FILE.yaml`.

  ls              names, and what each is for
  show NAME       the recipe, with where its numbers come from
  cp NAME [FILE]  copy it to FILE (default: NAME.yaml); an existing file is not overwritten"""


def main(arguments: list[str]) -> None:
    """Run one of the three sub-commands."""
    match arguments:
        case ["ls"] | []:
            width = max(map(len, recipe_names()))
            for name in recipe_names():
                print(f"{name:<{width}}  {recipe_text(name).splitlines()[0].lstrip('# ')}")
        case ["show", name]:
            print(recipe_text(name), end="")
        case ["cp", name, *rest] if len(rest) <= 1:
            _copy(name, Path(rest[0] if rest else f"{name}.yaml"))
        case ["-h" | "--help", *_] | [_, "-h" | "--help"]:
            print(USAGE)
        case _:
            print(USAGE, file=sys.stderr)
            raise RecipeError(f"not understood: recipes {' '.join(arguments)}")


def _copy(name: str, target: Path) -> None:
    text = recipe_text(name)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{target} exists already; name another file") from None
    except OSError as error:
        raise RecipeError(f"cannot write {target}: {error}") from error
    print(f"wrote {target}; use it with: transmix train --recipe {target} --out RUN")
