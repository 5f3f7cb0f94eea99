"""Recipes as YAML files: read strictly (an unknown key is an error), written back in full."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from transmix.error import RecipeError
from transmix.recipes.mixing import resolved
from transmix.recipes.settings import Recipe

RENAMED = {"mix_prob": "prob", "mix_mode": "mode"}
"""Settings of section mixing that had another name once -> their name."""

MOVED = {"attention_weight": "weight", "downsample": "downsample"}
"""Settings of section mixing that were keys of their own once -> their name in labels_options."""

LARGEST = 100_000
"""Letters in a recipe; more are refused before they are parsed."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("transmix.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe that comes with the package, comments included.

    Raises:
        RecipeError: no recipe of this name; the message gives the nearest.
    """
    if name not in recipe_names():
        raise RecipeError(f"no recipe is called {name!r}{_nearest(name, recipe_names())}")
    return (resources.files("transmix.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str, absent: Mapping[str, Any] = types.MappingProxyType({})) -> Recipe:
    """Load a recipe by name, or from a YAML file if the text ends in .yaml or .yml.

    Args:
        name_or_path: see above.
        absent: setting -> its value where the file's section does not name it; others have their defaults.

    Raises:
        RecipeError: no such recipe, text that is not YAML, an unknown key or a value of the wrong type.
    """
    import yaml

    if name_or_path.endswith((".yaml", ".yml")):
        try:
            with Path(name_or_path).open(encoding="utf-8") as file:
                text = file.read(LARGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {name_or_path}: {error}") from error
    else:
        text = recipe_text(name_or_path)
    if len(text) > LARGEST:
        raise RecipeError(f"{name_or_path} is longer than {LARGEST} letters; is it a recipe?")
    try:
        fault = _fault(yaml.compose(text, Loader=yaml.SafeLoader))
        values = None if fault else yaml.safe_load(text)
    except Exception as error:  # YAML's own, and on odd scalars nearly any other
        raise RecipeError(f"{name_or_path} is not YAML: {' '.join(str(error).split())[:300]}") from error
    if fault:
        raise RecipeError(f"{name_or_path}{fault}")
    return typing.cast(Recipe, _build(Recipe, {} if values is None else values, name_or_path, "", absent))


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting, section by section."""
    import yaml

    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True)


def changed_settings(before: Recipe, after: Recipe) -> list[str]:
    """Return "name: old -> new" of every setting in which two recipes differ, aliases resolved."""
    old, new = (dataclasses.asdict(resolved(recipe)) for recipe in (before, after))
    return [
        f"{name}: {value} -> {new[section][name]}"
        for section, settings in old.items()
        for name, value in settings.items()
        if value != new[section][name]
    ]


def _fault(node: Any) -> str:
    """Say what YAML takes and a recipe must not have; "" if there is nothing.

    That is a part that stands in several places (a few lines could stand for any number so), and a key that a mapping
    has twice (YAML itself silently takes the last).
    """
    import yaml

    seen, waiting = set(), [node]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            return " repeats a part by an alias (*name); write it out"
        seen.add(id(part))
        if isinstance(part, yaml.MappingNode):
            names = [name.value for name, _ in part.value]
            for at, (name, _) in enumerate(part.value):
                if name.value in names[:at]:
                    return f": {name.value} (line {name.start_mark.line + 1}) is given twice; keep one"
            waiting += [side for pair in part.value for side in pair]
        elif isinstance(part, yaml.SequenceNode):
            waiting += part.value
    return ""


def _build(kind: type, values: Any, where: str, section: str, absent: Mapping[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: {section or 'a recipe'} must be settings (name: value), not {values!r}")
    values = _renamed(values, where) if section == "mixing" else values
    hints = typing.get_type_hints(kind)
    settings = {name: value for name, value in absent.items() if name in hints}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        if key not in hints:
            raise RecipeError(f"{where}: unknown setting {name}{_nearest(str(key), list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            part = typing.cast(type, hints[key])
            settings[key] = _build(part, {} if value is None else value, where, name, absent)
        else:
            settings[key] = _convert(value, hints[key], f"{where}: {name}")
    return kind(**settings)


def _renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the section mixing in the names of today."""
    found: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for key, value in values.items():
        if key in MOVED:
            options[MOVED[key]] = value
            continue
        name = RENAMED.get(key, key)
        if name in found:
            old = next(before for before, now in RENAMED.items() if now == name)
            raise RecipeError(f"{where}: mixing.{old} is an old name of {name}, which is given too; keep one")
        found[name] = value
    if options:
        given = found.get("labels_options") or {}
        if isinstance(given, dict):
            if twice := sorted(options.keys() & given.keys()):
                raise RecipeError(f"{where}: {twice[0]} is given twice, in mixing and in labels_options; keep one")
            found["labels_options"] = given | options
    return found


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Return a YAML value as the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None and type(None) in arguments:
        return None
    if origin is types.UnionType:
        hint, *others = [argument for argument in arguments if argument is not type(None)]
        if not others:
            return _convert(value, hint, name)
        takes_lists = any(typing.get_origin(kind) is tuple for kind in others)
        parts = value if takes_lists and isinstance(value, list | tuple) else [value]
        if parts and all(type(part) in (hint, *others) for part in parts):
            return value if parts == [value] else tuple(parts)
        wanted = "a number, a text, true, false or a list of such"
    elif origin is typing.Literal:
        if value in arguments:
            return value
        wanted = f"one of {', '.join(map(str, arguments))}"
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(_convert(part, argument, name) for part, argument in zip(value, arguments, strict=True))
        wanted = f"a list of {len(arguments)} numbers"
    elif origin is dict:
        if isinstance(value, dict):
            return {str(key): _convert(part, arguments[1], f"{name}.{key}") for key, part in value.items()}
        wanted = "settings (name: value)"
    else:
        if (
            hint is float and isinstance(value, int | str) and not isinstance(value, bool)
        ):  # YAML reads 1e-3, without a dot, as text
            with suppress(ValueError):
                return float(value)
        if type(value) is hint:
            return value
        wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}[hint]
    raise RecipeError(f"{name} must be {wanted}, not {value!r}")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
